"""Apply the causal shift, only here: which logits are scored, and against which token.

Shape letters: B sequences, L positions, N flattened scored positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch


def scored_positions(batch: TokenBatch) -> Tensor:
    """Return (B, L−1) bool: True at position t where the logits of t are scored against the token of t+1."""
    return batch["answer_mask"][:, 1:]


def predicting_positions(batch: TokenBatch) -> Tensor:
    """Return (B, L) bool: the same over all L positions; the last one predicts nothing."""
    return torch.nn.functional.pad(scored_positions(batch), (0, 1))


def scored_targets(batch: TokenBatch) -> Tensor:
    """Return (N,) the tokens that the scored logits predict, row by row."""
    return at_scored_tokens(batch["labels"], batch)


def scored_rows(batch: TokenBatch) -> Tensor:
    """Return (N,) the row index, in its split, of each scored position."""
    return at_scored_tokens(batch["rows"], batch)


def at_scored_tokens(values_BL: Tensor, batch: TokenBatch) -> Tensor:
    """Return (N,) the values that belong to the tokens that the scored logits predict."""
    return values_BL[:, 1:][scored_positions(batch)]


def scored_count(batch: TokenBatch) -> int:
    """Return N, before any forward pass."""
    return int(scored_positions(batch).sum())


def at_scored(states_BLD: Tensor, batch: TokenBatch) -> Tensor:
    """Return (N, D) the rows of (B, L, D) at the scored positions, sample by sample, on any device."""
    return states_BLD[:, :-1][scored_positions(batch).to(states_BLD.device)]


def placed(states_PD: Tensor, at_BL: Tensor) -> Tensor:
    """Return (B, L, D) with the P rows at the positions where `at_BL` is True, in row order; zero elsewhere."""
    at_BL = at_BL.to(states_PD.device)
    states_BLD = states_PD.new_zeros(*at_BL.shape, states_PD.shape[1])
    states_BLD[at_BL] = states_PD
    return states_BLD
