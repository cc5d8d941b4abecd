"""Next-token cross-entropy. N scored positions, V student vocabulary."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from distillab.config.terms import CrossEntropyConfig
from distillab.objectives.build import TermContext
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm


class CrossEntropy(TokenTerm, config=CrossEntropyConfig):
    """−log q(token) at every scored position, in nats."""

    @classmethod
    def from_config(cls, settings: CrossEntropyConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls()

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) nats over the student's whole vocabulary; the teacher is not read."""
        return -student.logp_at(student.targets_N[:, None], student.logits_NV.shape[1], 1.0)[:, 0]
