"""Forward KL, estimated by sampling from the teacher's distribution.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary, K draws a position.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from distillab.config.terms import SampledDivergenceConfig
from distillab.divergences.sampled import mean_nats
from distillab.objectives.build import TermContext
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.teachers.signals import Draws


class SampledDivergence(TokenTerm, config=SampledDivergenceConfig):
    """Forward KL at temperature T, estimated at tokens that are drawn from the teacher.

        value = 1/K Σ_k [ log p(x_k) − log q(x_k) ],      x_1 … x_K drawn from p

    In expectation the value and its gradient are those of forward KL; a single value can be negative. It is the
    cross-entropy of the draws (`sampled_cross_entropy`) less the teacher's own at the same draws.

    A teacher with full logits draws again at every step, from torch's own random state of the device where the logits
    are, which the run's seed sets and which every checkpoint holds: a run can be repeated, and one that is resumed
    draws as if it had not been interrupted. A cache has drawn once for every position. Other draws from that state
    (such as dropout) change which tokens are drawn, and so does splitting the same rows into other microbatches or
    chunks; the expectation does not change.

    Args:
        settings: draws a position, and the temperature.
        shared_width: ids 0 … shared_width−1 mean the same to both models (from the tokenizer contract).
    """

    def __init__(self, settings: SampledDivergenceConfig, *, shared_width: int) -> None:
        self.shared_width = shared_width
        self.samples, self.temperature = settings.samples, settings.temperature
        self.score_request = Draws(settings.samples, shared_width, settings.temperature)

    @classmethod
    def from_config(cls, settings: SampledDivergenceConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, shared_width=context.shared_width)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) nats; a random variable.

        Raises:
            TeacherError: there is no teacher, or it has no such draws.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        teacher = require_fitting(student, signal, width=self.shared_width, term=self.name)
        drawn = teacher.drawn(self.samples, self.shared_width, self.temperature)
        return mean_nats(student.logp_at(drawn.ids, self.shared_width, self.temperature)) - drawn.entropy_estimate
