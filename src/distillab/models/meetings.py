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
    """(S,) bool: True for a span whose tokens are scored, all of them, on both sides. S: spans of the batch."""
    sides = (batch, batch["teacher"])
    spans = 1 + max(int(_spans(side).max()) for side in sides)
    shared = torch.ones(spans, dtype=torch.bool, device=batch["input_ids"].device)
    for side in sides:
        numbers_BL, inside_BL = _spans(side), _spans(side) >= 0
        scored = torch.zeros_like(shared)
        scored[numbers_BL[inside_BL & side["answer_mask"]]] = True
        scored[numbers_BL[inside_BL & ~side["answer_mask"]]] = False
        shared &= scored
    return shared


def first_of_span(batch: TokenBatch) -> Tensor:
    """(N,) bool: True where the scored token is the first one of a span."""
    spans_BL = _spans(batch)
    first_BL = (spans_BL[:, 1:] != spans_BL[:, :-1]) & (spans_BL[:, 1:] >= 0)
    return first_BL[scored_positions(batch)]


def partners(batch: TokenBatch) -> Tensor:
    """(N,) int64: for each scored position of the student the one of the teacher that predicts from the same place.

    That is: both next tokens begin a span that both sides score; what either model has read ends at the same byte. -1
    where the teacher has no such position. Teacher positions count through `batch["teacher"]`, as M does.
    """
    shared = shared_spans(batch)
    theirs = batch["teacher"]
    at_span = torch.full(shared.shape, -1, dtype=torch.int64, device=shared.device)
    their_spans, their_first = scored_spans(theirs), first_of_span(theirs)
    at_span[their_spans[their_first]] = their_first.nonzero()[:, 0]
    at_span[~shared] = -1
    our_spans, our_first = scored_spans(batch), first_of_span(batch)
    return torch.where(our_first, at_span[our_spans.clamp(min=0)], -1)


def ordinal_partners(batch: TokenBatch) -> Tensor:
    """(N,) int64: the n-th scored position of a sample with the teacher's n-th of the same sample; -1 beyond its end.

    Samples are matched by their order in the batch, so each side holds the same samples in the same order.
    """
    ours, theirs = _sample_of_scored(batch), _sample_of_scored(batch["teacher"])
    sizes = torch.bincount(theirs)
    starts = sizes.cumsum(0) - sizes
    our_sizes = torch.bincount(ours, minlength=sizes.shape[0])
    place_N = torch.arange(ours.shape[0], device=ours.device) - (our_sizes.cumsum(0) - our_sizes)[ours]
    return torch.where(place_N < sizes[ours], starts[ours] + place_N, -1)


def _sample_of_scored(batch: TokenBatch) -> Tensor:
    """(N,) the number of the sample, through the batch, that a scored position belongs to."""
    first_BL = batch["attention_mask"].bool() & (batch["position_ids"] == 0)
    sample_BL = first_BL.flatten().cumsum(0).view_as(first_BL) - 1
    return sample_BL[:, 1:][scored_positions(batch)]


def _spans(batch: TokenBatch) -> Tensor:
    if "spans" not in batch:
        raise ShapeError(
            "The batch does not say where the two tokenisations meet.",
            fix="make it with a PairedCollator",
        )
    return batch["spans"]
