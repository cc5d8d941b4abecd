"""What a teacher says about a batch: small frozen classes, each with exactly its own fields.

Shape letters: N flattened scored positions of the batch, in row order; W teacher vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FullLogits:
    """The teacher's raw scores for the next token at every scored position."""

    logits_NW: Tensor


TeacherSignal = FullLogits
