"""Tokens that the student drew itself: how likely each was when it was drawn, and is now.

Shape letters: N scored positions of the microbatch, n of some of them, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.objectives.term import StudentScores

_LARGEST_WEIGHT = 2.0


@dataclass(frozen=True)
class Drawn:
    """The drawn tokens among those that are predicted.

    Attributes:
        then_N: natural-log probability of each when it was drawn; NaN where the student did not draw it.
        width: it is the probability among the first so many ids, at temperature 1.
        weighs: multiply each term's value at a drawn token by its weight.
        now_N: the same probability by the forward pass that trains; filled by the pass.
        share_N: what each term's value is multiplied by besides, at every scored position; None: 1.
    """

    then_N: Tensor
    width: int
    weighs: bool
    now_N: Tensor
    share_N: Tensor | None = None

    @staticmethod
    def of(then_N: Tensor, width: int, *, weighs: bool, share_N: Tensor | None = None) -> Drawn:
        """Return them before the pass."""
        return Drawn(then_N, width, weighs, torch.full_like(then_N, torch.nan), share_N)

    @property
    def factor_N(self) -> Tensor | None:
        """What each term's value is multiplied by; None: 1 everywhere."""
        if not self.weighs or self.share_N is None:
            return self.weight_N if self.weighs else self.share_N
        return self.weight_N * self.share_N

    @property
    def weight_N(self) -> Tensor:
        """Truncated importance weights, min(probability now / then, 2); 1 where the student did not draw the token."""
        return (self.now_N - self.then_N).exp().clamp(max=_LARGEST_WEIGHT).nan_to_num(1.0)

    def at(self, here: slice) -> Drawn:
        """Return those of some positions; what is filled in there is filled in here."""
        share_n = None if self.share_N is None else self.share_N[here]
        return replace(self, then_N=self.then_N[here], now_N=self.now_N[here], share_N=share_n)

    def fill(self, student: StudentScores) -> None:
        """Take what the student gives its drawn tokens now."""
        targets_n = student.targets_N.clamp(max=self.width - 1)  # of others nothing is read
        now_n = student.logp_at(targets_n[:, None], self.width, 1.0).detach()[:, 0]
        self.now_N.copy_(torch.where(self.then_N.isnan(), self.then_N, now_n))
