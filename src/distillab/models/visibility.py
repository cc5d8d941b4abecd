"""Find which positions of a batch belong to one sample, and which of them a position can read.

Shapes: B sequences, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch


def sample_numbers(batch: TokenBatch) -> Tensor:
    """Return (B, L) int64: the number of each position's sample in its sequence, from 0; -1 at padding.

    Samples are separated by their position ids, which start again at 0, not by their row: a row can follow
    itself.
    """
    token_BL = batch["attention_mask"].bool()
    starts_BL = token_BL & (batch["position_ids"] == 0)
    return (starts_BL.cumsum(dim=1) - 1).masked_fill(~token_BL, -1)


def is_packed(batch: TokenBatch) -> bool:
    """Return whether any sequence holds more than one sample."""
    return bool((sample_numbers(batch) > 0).any())


def visible(batch: TokenBatch) -> Tensor:
    """Return (B, L, L) bool: True where position t (second axis) can read position s (third axis).

    That is: s ≤ t, both in the same sample, neither of them padding.
    """
    sample_BL = sample_numbers(batch)
    length = sample_BL.shape[1]
    same_BLL = sample_BL[:, :, None] == sample_BL[:, None, :]
    token_BL = sample_BL >= 0
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=sample_BL.device).tril()
    return same_BLL & causal_LL & token_BL[:, :, None]
