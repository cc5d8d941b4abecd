"""Choose the positions that the terms on activations compare. B sequences, L positions."""

from __future__ import annotations

from torch import Tensor

from distillab.config.layer_terms import Positions
from distillab.models.batch import TokenBatch
from distillab.models.scoring import predicting_positions


def chosen_positions(batch: TokenBatch, positions: Positions) -> Tensor:
    """Return (B, L) bool: where the answer is predicted ("answer"), or every token that is not padding ("all")."""
    if positions == "all":
        return batch["attention_mask"].bool()
    return predicting_positions(batch)
