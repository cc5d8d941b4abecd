"""Find the shared spans of a microbatch: the sample that each is in, and which have the same text.

Shape letters: B sequences, L positions of one model, T its tokens that lie in a kept span, A all spans of the batch,
S those of them that are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.visibility import sample_numbers

# an odd number of 63 bits without pattern (Knuth's multiplier): powers of it spread ids over all 64 bits
_BASE = 6364136223846793005


@dataclass(frozen=True)
class SpanLayout:
    """The shared spans (scored for both models), in the order of their numbers, on the batch's device.

    Attributes:
        kept_A: (A,) bool, which of the batch's spans these are.
        sample_S: (S,) int64, the sample that a span lies in, from 0 through those that have a span.
        place_S: (S,) int64, its place among those of its sample, from 0.
        row_S: (S,) int64, the row's index in its split.
        text_S: (S,) int64, equal where the teacher's token ids of the span are equal, and (but for a chance of about
            2⁻⁶³) only there.
    """

    kept_A: Tensor
    sample_S: Tensor
    place_S: Tensor
    row_S: Tensor
    text_S: Tensor


def span_layout(batch: TokenBatch) -> SpanLayout:
    """Return the places of the shared spans of a batch of two tokenisations.

    Raises:
        ShapeError: the batch has one tokenisation.
    """
    kept_A = require_alignment(batch).shared_S
    span_T, token_BL = _tokens_inside(batch, kept_A)
    size, length = token_BL.shape
    # numbered through the batch: a sequence has no more samples than positions
    number_BL = sample_numbers(batch) + length * torch.arange(size, device=token_BL.device)[:, None]
    spans = int(kept_A.sum())
    number_S, row_S = (torch.zeros(spans, dtype=torch.int64, device=span_T.device) for _ in range(2))
    number_S[span_T] = number_BL[token_BL]
    row_S[span_T] = batch["rows"][token_BL]
    # the spans of a sample are numbered one after another
    _, sample_S, sizes = torch.unique_consecutive(number_S, return_inverse=True, return_counts=True)
    place_S = torch.arange(spans, device=span_T.device) - (sizes.cumsum(0) - sizes)[sample_S]
    return SpanLayout(kept_A, sample_S, place_S, row_S, _text(batch["teacher"], kept_A))


def _tokens_inside(batch: TokenBatch, kept_A: Tensor) -> tuple[Tensor, Tensor]:
    """Return (T,) the span of each token in a kept span, numbered among the kept, and (B, L) bool, these tokens."""
    spans_BL = batch["spans"]
    token_BL = (spans_BL >= 0) & kept_A[spans_BL.clamp(min=0)]
    number_A = kept_A.cumsum(0) - 1
    return number_A[spans_BL[token_BL]], token_BL


def _text(batch: TokenBatch, kept_A: Tensor) -> Tensor:
    """Return (S,) Σ_k (id_k + 1) · base^k modulo 2⁶⁴ over the tokens of each span."""
    span_T, token_BL = _tokens_inside(batch, kept_A)
    device = span_T.device
    order_T = torch.arange(span_T.shape[0], device=device)
    begins_T = torch.ones_like(span_T, dtype=torch.bool)
    begins_T[1:] = span_T[1:] != span_T[:-1]
    place_T = order_T - torch.where(begins_T, order_T, 0).cummax(0).values if span_T.numel() else order_T
    powers = torch.full((int(place_T.max()) + 1 if span_T.numel() else 1,), _BASE, device=device).cumprod(0)
    text_S = torch.zeros(int(kept_A.sum()), dtype=torch.int64, device=device)
    return text_S.index_add(0, span_T, (batch["input_ids"][token_BL] + 1) * powers[place_T])
