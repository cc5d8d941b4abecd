"""Divergence between teacher and student, token by token, over the ids that both share.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from distillab.config.terms import TokenDivergenceConfig, TopKDivergenceConfig
from distillab.divergences.by_name import formula
from distillab.objectives.build import TermContext
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.teachers.signals import Distribution, NextTokens, ScoreRequest, probabilities


class TokenDivergence(TokenTerm, config=TokenDivergenceConfig):
    """D(teacher, student) of the next-token distributions at temperature T.

    The logits of both models are cut to the shared ids before the softmax, so that unused rows of a padded
    vocabulary get no probability, and divided by the temperature. The result is multiplied by T² only if
    the settings require it (Hinton et al. 2015: it keeps the gradient's size independent of T).

    Args:
        settings: divergence, temperature and rescaling.
        shared_width: ids 0 … shared_width−1 mean the same to both models (from the tokenizer contract).
    """

    def __init__(self, settings: TokenDivergenceConfig | TopKDivergenceConfig, *, shared_width: int) -> None:
        self.settings = settings
        self.shared_width = shared_width
        self._formula = formula(settings.divergence, settings.parameters)
        self.score_request: ScoreRequest = Distribution(shared_width, settings.temperature)

    @classmethod
    def from_config(cls, settings: TokenDivergenceConfig | TopKDivergenceConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, shared_width=context.shared_width)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) nats (times T² if the settings require it).

        Raises:
            TeacherError: there is no teacher, or it does not give what is requested.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        teacher = require_fitting(student, signal, width=self.shared_width, term=self.name)
        value = self.distance(student, teacher)
        return value * self.settings.temperature**2 if self.settings.rescale_by_temperature_squared else value

    def distance(self, student: StudentScores, teacher: NextTokens) -> Tensor:
        """Return (N,) the divergence of the outcomes that are compared: here all shared ids."""
        temperature = self.settings.temperature
        return student.distance(self._formula, probabilities(teacher, self.shared_width, temperature), temperature)
