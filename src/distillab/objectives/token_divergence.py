"""Divergence between teacher and student, token by token, over the ids that both share.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.methods import TokenDivergenceConfig, TokenNeed
from distillab.divergences import forward_kl, jensen_shannon, reverse_kl
from distillab.errors import ShapeError, TeacherError
from distillab.objectives.term import StudentScores, TokenTerm
from distillab.records import AccessLevel
from distillab.teachers.signals import FullLogits, TeacherSignal


class TokenDivergence(TokenTerm):
    """D(teacher, student) of the next-token distributions at temperature T.

    Both sides' logits are cut to the shared ids before the softmax, so that unused rows of a padded
    vocabulary get no probability, and divided by the temperature. The result is multiplied by T² only if
    the settings say so (Hinton et al. 2015: it keeps the gradient's size independent of T).

    Args:
        settings: divergence, temperature and rescaling.
        shared_width: ids 0 … shared_width−1 mean the same on both sides (from the tokenizer contract).
    """

    name: str = "token_divergence"
    access: AccessLevel = TokenDivergenceConfig.access
    tokens: TokenNeed = TokenDivergenceConfig.tokens

    def __init__(self, settings: TokenDivergenceConfig, *, shared_width: int) -> None:
        self.settings = settings
        self.shared_width = shared_width

    def per_position(self, student: StudentScores, signal: TeacherSignal | None) -> Tensor:
        """(N,) nats (times T² where the settings say so).

        Raises:
            TeacherError: there is no full-logits signal.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        if not isinstance(signal, FullLogits):
            raise TeacherError("The term token_divergence reads full logits.", facts=[f"got: {type(signal).__name__}"])
        self._check(student.logits_NV, signal.logits_NW)
        student_logp = self._logp(student.logits_NV)
        teacher_logp = self._logp(signal.logits_NW)
        value = self._divergence(student_logp, teacher_logp)
        if self.settings.rescale_by_temperature_squared:
            value = value * self.settings.temperature**2
        return value

    def _divergence(self, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
        if self.settings.divergence == "forward_kl":
            return forward_kl(student_logp=student_logp, teacher_logp=teacher_logp)
        if self.settings.divergence == "reverse_kl":
            return reverse_kl(student_logp=student_logp, teacher_logp=teacher_logp)
        assert self.settings.teacher_weight is not None  # the settings were validated
        return jensen_shannon(
            student_logp=student_logp, teacher_logp=teacher_logp, teacher_weight=self.settings.teacher_weight
        )

    def _logp(self, logits: Tensor) -> Tensor:
        # float32 before the softmax: bfloat16 log-probabilities have three significant digits
        return torch.log_softmax(logits[:, : self.shared_width].float() / self.settings.temperature, dim=-1)

    def _check(self, student_logits: Tensor, teacher_logits: Tensor) -> None:
        same_positions = student_logits.shape[0] == teacher_logits.shape[0]
        if not same_positions or min(student_logits.shape[1], teacher_logits.shape[1]) < self.shared_width:
            raise ShapeError(
                "Teacher and student scores do not fit together.",
                facts=[
                    f"student {tuple(student_logits.shape)}",
                    f"teacher {tuple(teacher_logits.shape)}",
                    f"shared ids {self.shared_width}",
                ],
            )
