"""Next-token cross-entropy. N scored positions, V student vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.methods import CrossEntropyConfig, TokenNeed
from distillab.objectives.term import StudentScores, TokenTerm
from distillab.records import AccessLevel
from distillab.teachers.signals import TeacherSignal


class CrossEntropy(TokenTerm):
    """−log q(token) at every scored position, in nats."""

    name: str = "cross_entropy"
    access: AccessLevel = CrossEntropyConfig.access
    tokens: TokenNeed = CrossEntropyConfig.tokens

    def per_position(self, student: StudentScores, signal: TeacherSignal | None) -> Tensor:
        """(N,) nats over the student's whole vocabulary; the teacher is not read."""
        return torch.nn.functional.cross_entropy(student.logits_NV.float(), student.targets_N, reduction="none")
