"""Carry the student's distribution to the teacher's tokens, as the rows show which of them begin where.

Shape letters: k positions with a partner, V student vocabulary, W teacher vocabulary, G teacher ids that are reached.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distillab.alignment.projection import VocabularyProjection
from distillab.divergences.fused import Probabilities
from distillab.objectives.grouped import Links, looked_up, numbered_by_ids


class Outcomes:
    """L(v | u) on a device: Q(v) = Σ_u q(u) L(v | u), the student's probability of the teacher's next token.

    Outcomes are the teacher ids v that some u is carried to, in the order of `numbered_by_ids`; if some u are carried
    nowhere, one more.

    Args:
        kernel: `TransportCounts.outcomes`.
        device: of the distributions.

    Attributes:
        links: from the student's ids to the outcomes.
        width: G.
        place: (W,) int64 the outcome of each teacher id; -1: it is not reached.
    """

    def __init__(self, kernel: VocabularyProjection, device: torch.device) -> None:
        sizes = np.diff(kernel.row_ends)
        students = np.repeat(np.arange(kernel.teacher_width), sizes)
        pairs = students * kernel.student_width + kernel.student_ids
        nowhere = np.flatnonzero(sizes == 0)
        reached, outcomes = np.unique(kernel.student_ids, return_inverse=True)
        numbers = numbered_by_ids(students, outcomes)
        outcomes, teachers = numbers[outcomes], reached[np.argsort(numbers)]
        order = np.argsort(outcomes, kind="stable")
        self.width = len(teachers)
        place = np.full(kernel.student_width, -1, dtype=np.int64)
        place[reached] = numbers
        arrays = (
            np.append(students[order], nowhere),
            np.append(outcomes[order], np.full(len(nowhere), self.width)),
            np.append(kernel.weights[order], np.ones(len(nowhere), np.float32)),
            *(place, pairs, teachers.astype(np.int32)),
        )
        ids, places, weights, self.place, self._pairs, self._teachers = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        self._left = (self.place < 0).nonzero()[:, 0]
        self.links = Links(ids, places, kernel.teacher_width, weights)

    def of_teacher(self, teacher: Probabilities) -> tuple[Probabilities, Tensor]:
        """Return the teacher's (k, W) distribution over the outcomes alone, normalised, and (k,) their mass before."""
        kept = Probabilities(looked_up(teacher.logits, self._teachers))
        if not self._left.numel():
            return kept, kept.logits.new_ones(kept.logits.shape[0])
        odds = (teacher.logits.index_select(1, self._left) - kept.log_total).logsumexp(dim=-1)
        return kept, odds.neg_().sigmoid_()

    def linked(self, student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        """Return (k,) bool, L(v | u) > 0 for (k,) u and v."""
        pairs = student_ids * self.place.shape[0] + teacher_ids
        places = torch.searchsorted(self._pairs, pairs).clamp(max=self._pairs.shape[0] - 1)
        return self._pairs[places] == pairs
