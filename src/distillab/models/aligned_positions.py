"""Where two tokenisations of the same samples meet.

Shape letters: B sequences, L positions, N scored positions of the student, M of the teacher, S spans of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.errors import ShapeError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_positions


def teacher_batch(batch: TokenBatch) -> TokenBatch:
    """The batch as the teacher reads it: that of its own tokens, or the student's where both are the same."""
    return batch.get("teacher", batch)


def scored_spans(batch: TokenBatch) -> Tensor:
    """(N,) the span that each scored token lies in; -1 where it lies in none."""
    return _spans(batch)[:, 1:][scored_positions(batch)]


def shared_spans(batch: TokenBatch) -> Tensor:
    """(S,) bool: True for a span whose tokens are scored, all of them, on both sides.

    S is one more than the largest number of a span in the batch, and 1 where there is none, so that it can be indexed.
    """
    sides = (batch, batch["teacher"])
    spans = max(1, 1 + max(int(_spans(side).max()) for side in sides))
    shared = torch.ones(spans, dtype=torch.bool, device=batch["input_ids"].device)
    for side in sides:
        numbers_BL, inside_BL = _spans(side), _spans(side) >= 0
        scored = torch.zeros_like(shared)
        scored[numbers_BL[inside_BL & side["answer_mask"]]] = True
        scored[numbers_BL[inside_BL & ~side["answer_mask"]]] = False
        shared &= scored
    return shared


def span_starts(batch: TokenBatch) -> Tensor:
    """(N,) bool: True where the scored token is the first one of a span."""
    spans_BL = _spans(batch)
    first_BL = (spans_BL[:, 1:] != spans_BL[:, :-1]) & (spans_BL[:, 1:] >= 0)
    return first_BL[scored_positions(batch)]


def first_positions(batch: TokenBatch, wanted_S: Tensor) -> Tensor:
    """(U,) int64: the scored position that predicts the first token of each wanted span, in the order of the spans.

    Args:
        batch: either side of a paired batch.
        wanted_S: (S,) bool, U spans whose first tokens this side scores, as of `shared_spans`.
    """
    spans_N = scored_spans(batch)
    first_N = span_starts(batch) & wanted_S[spans_N.clamp(min=0)]
    place_S = torch.zeros(wanted_S.shape, dtype=torch.int64, device=wanted_S.device)
    place_S[spans_N[first_N]] = first_N.nonzero()[:, 0]
    return place_S[wanted_S]


def partners(batch: TokenBatch) -> Tensor:
    """(N,) int64: for each scored position of the student the one of the teacher that predicts from the same place.

    That is: both next tokens begin a span that both sides score; what either model has read ends at the same byte. -1
    where the teacher has no such position. Teacher positions count through `batch["teacher"]`, as M does.
    """
    shared = shared_spans(batch)
    theirs = batch["teacher"]
    at_span = torch.full(shared.shape, -1, dtype=torch.int64, device=shared.device)
    their_spans, their_first = scored_spans(theirs), span_starts(theirs)
    at_span[their_spans[their_first]] = their_first.nonzero()[:, 0]
    at_span[~shared] = -1
    our_spans, our_first = scored_spans(batch), span_starts(batch)
    return torch.where(our_first, at_span[our_spans.clamp(min=0)], -1)


def span_ends(batch: TokenBatch, spans: int) -> Tensor:
    """(S,) int64: for each span the scored position from which a side predicts what comes right after it.

    -1 where the next span does not begin right there (the sample ends, or a token that is in no span stands between),
    or where its first token is not scored.

    Args:
        batch: either side of a paired batch.
        spans: S, as of `shared_spans`.
    """
    spans_BL, scored_BT = _spans(batch), scored_positions(batch)
    here_BT = spans_BL[:, :-1]
    goes_on_BT = scored_BT & (here_BT >= 0) & (spans_BL[:, 1:] == here_BT + 1)
    number_BT = scored_BT.flatten().cumsum(0).view_as(scored_BT) - 1
    after_S = torch.full((spans,), -1, dtype=torch.int64, device=spans_BL.device)
    after_S[here_BT[goes_on_BT]] = number_BT[goes_on_BT]
    return after_S


def ordinal_positions(batch: TokenBatch) -> Tensor:
    """(N,) int64: the n-th scored position of a sample with the teacher's n-th of the same sample; -1 beyond its end.

    Samples are matched by their row in the split; of a row that stands several times, by order.

    Raises:
        ShapeError: the two sides do not hold the same rows.
    """
    (ours, our_rows), (theirs, their_rows) = _samples(batch), _samples(batch["teacher"])
    our_order, their_order = our_rows.argsort(stable=True), their_rows.argsort(stable=True)
    if our_rows.shape != their_rows.shape or not torch.equal(our_rows[our_order], their_rows[their_order]):
        raise ShapeError(
            "The two sides of the batch hold other samples.",
            facts=[f"student: rows {our_rows.tolist()[:8]}", f"teacher: rows {their_rows.tolist()[:8]}"],
            fix="make it with a PairedCollator",
        )
    match = torch.empty_like(our_order)
    match[our_order] = their_order
    sizes, our_sizes = (torch.bincount(side, minlength=match.shape[0]) for side in (theirs, ours))
    place_N = torch.arange(ours.shape[0], device=ours.device) - (our_sizes.cumsum(0) - our_sizes)[ours]
    sample_N = match[ours]
    return torch.where(place_N < sizes[sample_N], (sizes.cumsum(0) - sizes)[sample_N] + place_N, -1)


def _samples(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """(N,) the sample, by number, of every scored position; and of each sample the row in its split."""
    first_BL = batch["attention_mask"].bool() & (batch["position_ids"] == 0)
    sample_BL = first_BL.flatten().cumsum(0).view_as(first_BL) - 1
    return sample_BL[:, 1:][scored_positions(batch)], batch["rows"][first_BL]


def _spans(batch: TokenBatch) -> Tensor:
    if "spans" not in batch:
        raise ShapeError(
            "The batch does not say where the two tokenisations meet.",
            fix="make it with a PairedCollator",
        )
    return batch["spans"]
