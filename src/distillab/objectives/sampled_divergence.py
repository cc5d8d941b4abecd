"""Forward KL by draws from the teacher's distribution.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary, K draws a position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.terms import SampledDivergenceConfig, TokenNeed
from distillab.divergences.sampled import sampled_cross_entropy
from distillab.objectives.shared_ids import require_fitting
from distillab.objectives.term import StudentScores, TokenTerm
from distillab.records import AccessLevel
from distillab.teachers.signals import FullLogits


class SampledDivergence(TokenTerm):
    """Forward KL at temperature T, estimated at tokens that are drawn from the teacher.

        value = 1/K Σ_k [ log p(x_k) − log q(x_k) ],      x_1 … x_K drawn from p

    In expectation the value and its gradient are those of forward KL; a single value can be negative. It is the
    cross-entropy of the draws (`sampled_cross_entropy`) less the teacher's own at the same draws.

    The draws come from torch's own random state of the device where the logits are, which the run's seed sets and
    which every checkpoint holds: a run can be repeated, and one that is resumed draws as if it had not been
    interrupted. Other draws from that state (dropout, say) change which tokens are drawn, and so does splitting the
    same rows into other microbatches or tiles; the expectation stays.

    Args:
        settings: draws a position, and the temperature.
        shared_width: ids 0 … shared_width−1 mean the same on both sides (from the tokenizer contract).
    """

    name: str = "sampled_divergence"
    access: AccessLevel = SampledDivergenceConfig.access
    tokens: TokenNeed = SampledDivergenceConfig.tokens

    def __init__(self, settings: SampledDivergenceConfig, *, shared_width: int) -> None:
        self.settings = settings
        self.shared_width = shared_width

    def per_position(self, student: StudentScores, signal: FullLogits | None) -> Tensor:
        """(N,) nats; a random variable.

        Raises:
            TeacherError: there are no full logits.
            ShapeError: the signal has another number of positions, or fewer ids than are shared.
        """
        teacher = require_fitting(student, signal, width=self.shared_width, term=self.name)
        temperature = self.settings.temperature
        teacher_logp = teacher.logp(self.shared_width, temperature)
        drawn_ids = draw(teacher_logp, self.settings.samples)
        student_logp = student.logp(self.shared_width, temperature)
        nats = sampled_cross_entropy(student_logp=student_logp, drawn_ids=drawn_ids)
        own = sampled_cross_entropy(student_logp=teacher_logp, drawn_ids=drawn_ids)
        return nats - own


@torch.no_grad()
def draw(logp_NV: Tensor, samples: int) -> Tensor:
    """(N, samples) ids, drawn independently and with replacement from each row's distribution.

    By inversion of the running sum in float64. `torch.multinomial` adds up in float32 on a CPU: of a million tokens of
    probability 10⁻⁸ behind one of 0.99 it draws none, where one draw in a hundred should be among them.

    Args:
        logp_NV: (N, V) natural-log probabilities; a token of −inf is never drawn. What is drawn from a row that
            holds NaN means nothing.
        samples: draws a row.
    """
    reached = logp_NV.exp().cumsum(dim=-1, dtype=torch.float64)
    # scaled by what the row really sums to, which they stay below
    points = torch.rand(logp_NV.shape[0], samples, dtype=torch.float64, device=logp_NV.device) * reached[:, -1:]
    # in a row of NaN, as the softmax makes it of a single one, nothing is found, and V is no id
    return torch.searchsorted(reached, points, right=True).clamp_(max=logp_NV.shape[1] - 1)
