"""Choose the positions that the terms on activations compare. B sequences, L positions."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.terms import Positions
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_positions


def chosen_positions(batch: TokenBatch, positions: Positions) -> Tensor:
    """Return (B, L) bool: where the answer is predicted ("answer"), or every token that is not padding ("all")."""
    if positions == "all":
        return batch["attention_mask"].bool()
    return torch.nn.functional.pad(scored_positions(batch), (0, 1))  # the last position predicts nothing
