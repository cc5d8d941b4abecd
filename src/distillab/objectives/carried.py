"""Carry a teacher's probabilities over to the student's tokens, by a sparse map of tokens to tokens.

Shape letters: N positions, V student ids, W teacher ids, E entries.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distillab.alignment.projection import VocabularyProjection
from distillab.divergences.fused import Probabilities

LEAST_SUM = 1e-35
"""Sums below it have lost digits in float32, or vanished, and are computed again in log space."""
NO_MASS = -1e4
"""A log-probability whose exp is 0 in float32; finite, because 0 · −∞ is NaN in a sum of p · log p."""


class Carrier:
    """K(u | v) on a device, laid out by the student's ids.

    Attributes:
        identity: each id is carried to itself, and all are.
        complete: every teacher id is carried to some.
        reached: (V,) bool, student ids that any teacher id is carried to.
    """

    def __init__(self, kernel: VocabularyProjection, device: torch.device) -> None:
        self.kernel = kernel
        sizes = np.diff(kernel.row_ends)
        sources = np.repeat(np.arange(kernel.teacher_width), sizes)
        self.complete = bool((sizes > 0).all())
        self.identity = (
            kernel.teacher_width == kernel.student_width
            and np.array_equal(sources, kernel.student_ids)
            and np.array_equal(sources, np.arange(kernel.student_width))
        )
        # the heaviest entry of each student id is looked up, and only further ones are added: to read from a place is
        # several times as fast as to add to it
        order = np.lexsort((-kernel.weights, kernel.student_ids))
        ids = kernel.student_ids[order]
        is_first = np.diff(ids, prepend=-1) > 0
        first, weight = np.zeros(kernel.student_width, dtype=np.int64), np.zeros(kernel.student_width, np.float32)
        first[ids[is_first]], weight[ids[is_first]] = sources[order][is_first], kernel.weights[order][is_first]
        more = ~is_first
        arrays = (first, weight, sources[order][more], ids[more], kernel.weights[order][more])
        self._first, self._weight, self._sources, self._targets, self._weights = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        self.reached = self._weight > 0

    def prob(self, prob_NW: Tensor) -> Tensor:
        """Return (N, V) Σ_v p(v) K(u | v); its rows have the mass of the ids that are carried."""
        found = prob_NW.index_select(1, self._first).mul_(self._weight)
        if not self._sources.numel():
            return found
        return found.index_add_(1, self._targets, prob_NW.index_select(1, self._sources).mul_(self._weights))

    def logp(self, teacher: Probabilities) -> tuple[Tensor, Tensor | None]:
        """Return (N, V) log-probabilities that sum to one, and (N,) the mass before; None: 1."""
        found = self.prob(teacher.prob)
        lost = ((found < LEAST_SUM) & self.reached).any(dim=-1).nonzero()[:, 0]
        result = found.log()
        if lost.numel():
            result[lost] = self.kernel.project(teacher.logp[lost]).logp
        mass = None if self.complete else found.sum(dim=-1)
        if mass is not None:
            result -= result.logsumexp(dim=-1, keepdim=True)
        return result.clamp_(min=NO_MASS), mass
