"""The causal shift, in one place: which logits are scored, and against which token.

Shape letters: B sequences, L positions, N flattened scored positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.models.batch import TokenBatch


def scored_positions(batch: TokenBatch) -> Tensor:
    """(B, L−1) bool: True at position t where the logits of t are scored against the token of t+1."""
    return batch["answer_mask"][:, 1:]


def scored_targets(batch: TokenBatch) -> Tensor:
    """(N,) the tokens that the scored logits predict, row by row."""
    return batch["labels"][:, 1:][scored_positions(batch)]


def scored_rows(batch: TokenBatch) -> Tensor:
    """(N,) the row index, in its split, of each scored position."""
    mask = scored_positions(batch)
    return batch["rows"][:, None].expand_as(mask)[mask]


def scored_count(batch: TokenBatch) -> int:
    """N, before any forward pass."""
    return int(scored_positions(batch).sum())


def scored_logits(model: torch.nn.Module, batch: TokenBatch) -> Tensor:
    """(N, V) a model's logits at the scored positions of a batch, on the model's device.

    Args:
        batch: input_ids, attention_mask, position_ids, answer_mask; each (B, L).
    """
    device = next(model.parameters()).device
    output = model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        position_ids=batch["position_ids"].to(device),
        use_cache=False,
    )
    return output.logits[:, :-1][scored_positions(batch).to(device)]
