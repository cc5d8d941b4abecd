"""Align the scored positions of two tokenisations of the same samples: once a batch, when it is collated.

Shape letters: B sequences, L positions, T = L - 1, N scored positions of the student, M of the teacher, S spans of the
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.errors import ShapeError
from distillab.models.batch import AlignedSide, Alignment, TokenBatch
from distillab.models.scoring import scored_positions


def teacher_batch(batch: TokenBatch) -> TokenBatch:
    """Return the batch in the teacher's tokens, or the student's where both tokenizers are the same."""
    return batch.get("teacher", batch)


def require_alignment(batch: TokenBatch) -> Alignment:
    """Return the alignment of a batch of two tokenisations.

    Raises:
        ShapeError: the batch has one tokenisation.
    """
    if "alignment" not in batch:
        raise ShapeError(
            "The batch has no alignment of two tokenisations.",
            facts=[f"it has {', '.join(batch)}"],
            fix="make it with a PairedCollator",
        )
    return batch["alignment"]


def align_batch(student: TokenBatch, teacher: TokenBatch) -> Alignment:
    """Align the same samples in the student's and the teacher's tokens.

    Args:
        student, teacher: with `spans`, numbered through both batches; padded or packed separately.
    Raises:
        ShapeError: the two hold other samples.
    """
    batches = (student, teacher)
    spans = max(1, 1 + max(int(batch["spans"].max()) for batch in batches))
    shared_S = _scored_whole(student, spans) & _scored_whole(teacher, spans)
    sides = [_side(batch, spans) for batch in batches]
    partner_S = torch.where(shared_S, sides[1].first_S, -1)
    partner_N = torch.where(sides[0].starts_N, partner_S[sides[0].spans_N.clamp(min=0)], -1)
    return Alignment(sides[0], sides[1], shared_S, partner_N, _ordinal(student, teacher))


def _scored_whole(batch: TokenBatch, spans: int) -> Tensor:
    """Return (S,) bool: True for a span that has tokens here, all of them scored."""
    spans_BL, inside_BL = batch["spans"], batch["spans"] >= 0
    scored_S = torch.zeros(spans, dtype=torch.bool, device=spans_BL.device)
    scored_S[spans_BL[inside_BL & batch["answer_mask"]]] = True
    scored_S[spans_BL[inside_BL & ~batch["answer_mask"]]] = False
    return scored_S


def _side(batch: TokenBatch, spans: int) -> AlignedSide:
    spans_BL, scored_BT = batch["spans"], scored_positions(batch)
    here_BT, next_BT = spans_BL[:, :-1], spans_BL[:, 1:]
    spans_N = next_BT[scored_BT]
    starts_N = ((next_BT != here_BT) & (next_BT >= 0))[scored_BT]
    first_S, next_S = (torch.full((spans,), -1, dtype=torch.int64, device=spans_BL.device) for _ in range(2))
    first_S[spans_N[starts_N]] = starts_N.nonzero()[:, 0]
    goes_on_BT = scored_BT & (here_BT >= 0) & (next_BT == here_BT + 1)
    number_BT = scored_BT.flatten().cumsum(0).view_as(scored_BT) - 1
    next_S[here_BT[goes_on_BT]] = number_BT[goes_on_BT]
    return AlignedSide(spans_N, starts_N, first_S, next_S)


def _ordinal(student: TokenBatch, teacher: TokenBatch) -> Tensor:
    """Return (N,) int64, see `Alignment.ordinal_N`."""
    (student_N, student_rows), (teacher_M, teacher_rows) = _samples(student), _samples(teacher)
    student_order, teacher_order = (rows.argsort(stable=True) for rows in (student_rows, teacher_rows))
    if student_rows.shape != teacher_rows.shape or not torch.equal(
        student_rows[student_order], teacher_rows[teacher_order]
    ):
        raise ShapeError(
            "The batches of student and teacher hold other samples.",
            facts=[f"student: rows {student_rows.tolist()[:8]}", f"teacher: rows {teacher_rows.tolist()[:8]}"],
            fix="make them with a PairedCollator",
        )
    match = torch.empty_like(student_order)
    match[student_order] = teacher_order
    sizes, student_sizes = (torch.bincount(side, minlength=match.shape[0]) for side in (teacher_M, student_N))
    place_N = torch.arange(student_N.shape[0], device=match.device)
    place_N = place_N - (student_sizes.cumsum(0) - student_sizes)[student_N]
    sample_N = match[student_N]
    return torch.where(place_N < sizes[sample_N], (sizes.cumsum(0) - sizes)[sample_N] + place_N, -1)


def _samples(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return (N,) the sample, by number, of every scored position; and of each sample the row in its split."""
    first_BL = batch["attention_mask"].bool() & (batch["position_ids"] == 0)
    sample_BL = first_BL.flatten().cumsum(0).view_as(first_BL) - 1
    return sample_BL[:, 1:][scored_positions(batch)], batch["rows"][first_BL]
