"""Carry the student's distribution to the teacher's tokens, as the rows show which of them begin where.

Shape letters: N positions, V student vocabulary, W teacher vocabulary, E entries.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distillab.alignment.projection import VocabularyProjection
from distillab.objectives.carried import LEAST_SUM, NO_MASS, Carrier


class Outcomes:
    """L(v | u) on a device: Q(v) = Σ_u q(u) L(v | u), the student's probability of the teacher's next token.

    Args:
        kernel: `TransportCounts.outcomes`.
        device: of the distributions.
    """

    def __init__(self, kernel: VocabularyProjection, device: torch.device) -> None:
        self._carrier = Carrier(kernel, device)
        self._width = kernel.student_width
        rows = np.repeat(np.arange(kernel.teacher_width), np.diff(kernel.row_ends))
        self._pairs = torch.from_numpy(rows * self._width + kernel.student_ids).to(device)
        self.reached = self._carrier.reached

    def logp(self, logp_NV: Tensor) -> Tensor:
        """Return (N, W) log Q, normalised, with a gradient; −10⁴ for tokens that the student is not carried to.

        Below 10⁻³⁵ a probability is computed in log space.
        """
        prob = self._carrier.prob(logp_NV.exp())
        total = prob.sum(dim=-1, keepdim=True).log()
        # no gradient where it is clamped: those rows are replaced
        logp = prob.clamp(min=LEAST_SUM).log()
        lost = ((prob < LEAST_SUM) & self.reached).any(dim=-1).nonzero()[:, 0]
        if lost.numel():
            logp = logp.index_copy(0, lost, self._carrier.kernel.project(logp_NV[lost]).logp)
        return (logp - total).masked_fill(~self.reached, NO_MASS)

    def linked(self, student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        """Return (N,) bool, L(v | u) > 0 for (N,) u and v."""
        pairs = student_ids * self._width + teacher_ids
        places = torch.searchsorted(self._pairs, pairs).clamp(max=self._pairs.shape[0] - 1)
        return self._pairs[places] == pairs
