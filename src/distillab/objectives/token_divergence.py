"""Divergence between teacher and student, token by token, over the ids that both share.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from distillab.config.terms import TokenDivergenceConfig, TokenRequirement, TopKDivergenceConfig
from distillab.divergences.by_name import divergence
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.records import AccessLevel
from distillab.teachers.signals import Distribution, NextTokens, ScoreRequest


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
    tokens: TokenRequirement = TokenDivergenceConfig.tokens

    def __init__(self, settings: TokenDivergenceConfig | TopKDivergenceConfig, *, shared_width: int) -> None:
        self.settings = settings
        self.shared_width = shared_width
        self._divergence = divergence(settings.divergence, settings.parameters)
        self.score_request: ScoreRequest = Distribution(shared_width, settings.temperature)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """(N,) nats (times T² where the settings say so).

        Raises:
            TeacherError: there is no teacher, or it does not say what is asked.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        teacher = require_fitting(student, signal, width=self.shared_width, term=self.name)
        student_logp, teacher_logp = self.outcomes(student, teacher)
        value = self._divergence(student_logp=student_logp, teacher_logp=teacher_logp)
        return value * self.settings.temperature**2 if self.settings.rescale_by_temperature_squared else value

    def outcomes(self, student: StudentScores, teacher: NextTokens) -> tuple[Tensor, Tensor]:
        """Both sides' log-probabilities over what is compared: here all (N, shared ids)."""
        width, temperature = self.shared_width, self.settings.temperature
        return student.logp(width, temperature), teacher.logp(width, temperature)
