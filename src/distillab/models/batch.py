"""A batch as tensors: what a model reads, and which positions are scored.

Shapes: B sequences, L positions of the longest one, N scored positions of the student, M of the teacher, S spans of the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, Self, TypedDict

import torch
from torch import Tensor


class _Moves:
    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return it with all tensors on a device; so a data loader moves it with its batch."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items()}
        return type(self)(**moved)


@dataclass(frozen=True, eq=False)
class AlignedSide(_Moves):
    """The spans of a batch in one of two tokenisations, at its scored positions: N here, M where it is the teacher's.

    Attributes:
        spans_N: (N,) int64, the span that the token predicted lies in; -1 where it lies in none.
        starts_N: (N,) bool, True where that token is the first one of its span.
        first_S: (S,) int64, the scored position that predicts the first token of each span; -1 where it is not scored.
        next_S: (S,) int64, the scored position that predicts the token right after each span; -1 where the next span
            does not begin right there (the sample ends, or a token without a span is between), or where its
            first token is not scored.
    """

    spans_N: Tensor
    starts_N: Tensor
    first_S: Tensor
    next_S: Tensor

    def inside(self, wanted_S: Tensor) -> Tensor:
        """Return (N,) bool: True where the token lies in one of the wanted spans, (S,) bool."""
        return (self.spans_N >= 0) & wanted_S[self.spans_N.clamp(min=0)]


@dataclass(frozen=True, eq=False)
class Alignment(_Moves):
    """The correspondence of the scored positions of two tokenisations of one batch.

    Attributes:
        student, teacher: the spans at the student's and at the teacher's positions.
        shared_S: (S,) bool, True for a span whose tokens are all scored, for student and teacher. S is the largest
            number of a span in the batch plus one, and 1 if there is none, so that it can be indexed.
        partner_N: (N,) int64, for each scored position of the student the one of the teacher that predicts from the
            same place: both next tokens begin a shared span, and both models have read the text up to the same byte. -1
            where the teacher has no such position. Teacher positions count from 0 to M - 1.
        ordinal_N: (N,) int64, for the n-th scored position of a sample the teacher's n-th of the same sample; -1 beyond
            its end. Samples are matched by their row in the split; of a row that occurs several times, by order.
    """

    student: AlignedSide
    teacher: AlignedSide
    shared_S: Tensor
    partner_N: Tensor
    ordinal_N: Tensor


class TokenBatch(TypedDict):
    """Padded sequences. One holds one sample; with packing it holds several, one after another.

    input_ids: (B, L) int64. attention_mask: (B, L) int64, 1 at tokens and 0 at padding.
    position_ids: (B, L) int64, counted from the first token of each sample; 0 at padding.
    labels: (B, L) int64, input_ids where supervised and -100 elsewhere, not shifted.
    answer_mask: (B, L) bool, True where labels are not -100; never at the first token of a sample.
    rows: (B, L) int64, the row's index in its split; -1 at padding.
    written: (B, L) bool, where the student writes answers during training: True at the tokens that it wrote.
    drawn_logp: (B, L) float32, there too: the natural-log probability of each token that it wrote; NaN elsewhere.
    share: (B, L) float32, there too, where tokens count differently in the loss: the factor of each; its mean over the
        scored tokens of the step is 1.
    spans: (B, L) int64, where the same samples were also read by another tokenizer: the number, in the batch, of the
        span of bytes that the token lies in and that both tokenisations share the borders of; -1 where there is none.
    teacher: the same samples as the teacher's tokenizer reads them, with the same span numbers.
    alignment: which positions of the two correspond.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    answer_mask: Tensor
    rows: Tensor
    written: NotRequired[Tensor]
    drawn_logp: NotRequired[Tensor]
    share: NotRequired[Tensor]
    spans: NotRequired[Tensor]
    teacher: NotRequired[TokenBatch]
    alignment: NotRequired[Alignment]
