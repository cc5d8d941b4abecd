"""Cross-attention between the scored positions of two models that read one text in different tokens.

Shape letters: B sequences, L positions; N, M scored positions of student and teacher; n, m those of them that take
part; G samples, P and R positions of the longest of them for student and teacher; X any width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import AlignedSide, TokenBatch
from distillab.objectives.span_layout import span_layout


@dataclass(frozen=True)
class Places:
    """The positions of one model that take part: those that predict a token of a shared span.

    Attributes:
        kept_N: (N,) bool, which of the scored positions these are.
        sample_n: (n,) int64, the sample of each, from 0 and the same for both models.
        place_n: (n,) int64, its place among those of its sample, from 0.
        span_n: (n,) int64, the span of the token that it predicts; numbers grow along a sample.
        first_n: (n,) bool, whether that token begins the span.
    """

    kept_N: Tensor
    sample_n: Tensor
    place_n: Tensor
    span_n: Tensor
    first_n: Tensor

    def laid(self, values_nX: Tensor, samples: int) -> Tensor:
        """Lay values out as (G, P, …) sample by sample, zero where a sample has no further position."""
        device = values_nX.device
        longest = int(self.place_n.max()) + 1 if self.place_n.numel() else 0
        where = (self.sample_n.to(device), self.place_n.to(device))
        return values_nX.new_zeros(samples, longest, *values_nX.shape[1:]).index_put(where, values_nX)

    def taken(self, laid_GPX: Tensor) -> Tensor:
        """Take (n, …) back from the samples."""
        return laid_GPX[self.sample_n.to(laid_GPX.device), self.place_n.to(laid_GPX.device)]


@dataclass(frozen=True)
class CrossLayout:
    """Which position attends to which, within a sample.

    Attributes:
        student, teacher: the student's and the teacher's positions.
        samples: G.
        to_teacher_GPR: bool, True where the student's position attends to the teacher's; all True for a place without a
            position, whose row is not read.
        to_student_GRP: bool, the same of the teacher's positions.
    """

    student: Places
    teacher: Places
    samples: int
    to_teacher_GPR: Tensor
    to_student_GRP: Tensor


def cross_layout(batch: TokenBatch, *, causal: bool) -> CrossLayout:
    """Return the layout of a batch of two tokenisations, on the batch's device.

    Causal: a position of the student attends to positions of the teacher that predict a token of the same span or of an
    earlier one. A position of the teacher attends to those of the student that have read no more of the text than it
    has: those that predict a token of an earlier span, or the first one of the same span.

    Args:
        causal: if False, every position attends to all of its sample.
    Raises:
        ShapeError: the batch has one tokenisation.
    """
    alignment, spans = require_alignment(batch), span_layout(batch)
    samples = int(spans.sample_S.max()) + 1 if spans.sample_S.numel() else 0
    student, teacher = (
        _places(side, spans.kept_A, spans.sample_S, samples) for side in (alignment.student, alignment.teacher)
    )
    there_GP, there_GR = (side.laid(torch.ones_like(side.first_n), samples) for side in (student, teacher))
    forth, back = there_GR[:, None, :], there_GP[:, None, :]
    if causal:
        span_GP1, span_GR1 = (side.laid(side.span_n, samples)[:, :, None] for side in (student, teacher))
        span_G1P, span_G1R = span_GP1.transpose(1, 2), span_GR1.transpose(1, 2)
        first_G1P = student.laid(student.first_n, samples)[:, None, :]
        forth = forth & (span_G1R <= span_GP1)
        back = back & ((span_G1P < span_GR1) | ((span_G1P == span_GR1) & first_G1P))
    return CrossLayout(student, teacher, samples, forth | ~there_GP[:, :, None], back | ~there_GR[:, :, None])


def attend(
    layout: CrossLayout, *, query_nX: Tensor, key_mX: Tensor, teacher_values_mD: Tensor, student_values_nE: Tensor
) -> tuple[Tensor, Tensor]:
    """Return for each row the mean of the other's values, weighted by one matrix of scores in both directions.

        A = Q Kᵀ / √X;   softmax over the teacher's positions (rows of A), and over the student's (columns)

    Args:
        query_nX: (n, X) of the student's positions.
        key_mX: (m, X) of the teacher's.
        teacher_values_mD: (m, D), for the student's positions.
        student_values_nE: (n, E), for the teacher's positions.
    Returns:
        (n, D) and (m, E).
    """
    student, teacher, samples = layout.student, layout.teacher, layout.samples
    # scaled before anything is masked by −∞, which a gradient must not be multiplied with
    scores_GPR = student.laid(query_nX / math.sqrt(query_nX.shape[1]), samples) @ teacher.laid(key_mX, samples).mT
    forth_GPR, back_GRP = (
        scores.masked_fill(~sees.to(scores.device), -math.inf).softmax(dim=-1)
        for scores, sees in ((scores_GPR, layout.to_teacher_GPR), (scores_GPR.mT, layout.to_student_GRP))
    )
    return (
        student.taken(forth_GPR @ teacher.laid(teacher_values_mD, samples)),
        teacher.taken(back_GRP @ student.laid(student_values_nE, samples)),
    )


def _places(side: AlignedSide, kept_A: Tensor, sample_S: Tensor, samples: int) -> Places:
    kept_N = side.inside(kept_A)
    span_n = (kept_A.cumsum(0) - 1)[side.spans_N[kept_N]]
    sample_n = sample_S[span_n]
    sizes_G = torch.bincount(sample_n, minlength=samples)
    # samples can have another order in the other batch: places are counted from the sample's beginning
    order_n = sample_n.argsort(stable=True)
    place_n = torch.empty_like(sample_n)
    numbers_n = torch.arange(sample_n.shape[0], device=sample_n.device)
    place_n[order_n] = numbers_n - (sizes_G.cumsum(0) - sizes_G)[sample_n[order_n]]
    return Places(kept_N, sample_n, place_n, span_n, side.starts_N[kept_N])
