"""Sum token probabilities over groups of tokens, in log space, with a fused gradient.

Shape letters: N positions, V ids, G groups, K groups of several ids, E ids of those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Probabilities below 10⁻³⁸ have few digits in float32; that does not change a sum of this size.
_LEAST_SUM = 1e-35


@dataclass(frozen=True, eq=False)
class Grouping:
    """The group of each id of a vocabulary.

    Attributes:
        of: (V,) int64, from 0 on, each group with an id at least; -1 for ids that are in none.
    """

    of: Tensor

    @cached_property
    def first(self) -> Tensor:
        """(G,) the lowest id of each group."""
        size = int(self.of.max()) + 1
        ids = torch.arange(self.of.shape[0], device=self.of.device)
        first = torch.full((size,), self.of.shape[0], dtype=torch.int64, device=self.of.device)
        inside = self.of >= 0
        return first.scatter_reduce(0, self.of[inside], ids[inside], "amin")

    @cached_property
    def shared(self) -> Tensor:
        """(K,) the groups of several ids."""
        sizes = torch.bincount(self.of[self.of >= 0], minlength=self.first.shape[0])
        return (sizes > 1).nonzero()[:, 0]

    @cached_property
    def members(self) -> tuple[Tensor, Tensor]:
        """(E,) the ids of those groups, and (E,) the place of each one's group among them."""
        place = torch.full_like(self.first, -1)
        place[self.shared] = torch.arange(self.shared.shape[0], device=self.of.device)
        of = torch.where(self.of >= 0, place[self.of.clamp(min=0)], -1)
        ids = (of >= 0).nonzero()[:, 0]
        return ids, of[ids]

    @cached_property
    def slopes_at(self) -> Tensor:
        """(V,) the place of each id's slope: G groups, then E members, then one for ids in no group."""
        ids, _ = self.members
        size = self.first.shape[0]
        place = torch.where(self.of >= 0, self.of, size + ids.shape[0])
        place[ids] = torch.arange(size, size + ids.shape[0], device=self.of.device)
        return place

    @cached_property
    def complete(self) -> bool:
        """Whether every id is in a group."""
        return bool((self.of >= 0).all())

    @cached_property
    def trivial(self) -> bool:
        """Whether the groups are the ids themselves."""
        return torch.equal(self.of, torch.arange(self.of.shape[0], device=self.of.device))


def grouped(logp_NV: Tensor, grouping: Grouping) -> Tensor:
    """Return (N, G) log Σ exp over the ids of each group, differentiable once; −inf where none has any mass.

    Ids in no group are left out; the rest is not normalised.
    """
    return logp_NV if grouping.trivial else _grouped(logp_NV, grouping)


class _Grouped(torch.autograd.Function):
    """Groups of one id are looked up; sums are computed only for the others."""

    @staticmethod
    def forward(ctx: Any, logp_NV: Tensor, grouping: Grouping) -> Tensor:
        total_NG = logp_NV.index_select(1, grouping.first)
        ctx.grouping = grouping
        if not grouping.shared.numel():
            return total_NG
        ids, groups = grouping.members
        members_NE = logp_NV.index_select(1, ids)
        shares_NE = members_NE.exp()
        sums_NK = _sums(shares_NE, grouping)
        logs_NK = sums_NK.log()
        if bool((sums_NK < _LEAST_SUM).any()):
            # too little for the sum to be exact: scaled by the largest of each group, which takes three times as long
            top_NK = total_NG.index_select(1, grouping.shared)
            top_NK.scatter_reduce_(1, groups.expand_as(members_NE), members_NE, "amax")
            top_NK.masked_fill_(top_NK == -torch.inf, 0.0)  # no mass: nothing to scale by
            shares_NE = members_NE.sub_(top_NK.index_select(1, groups)).exp_()
            sums_NK = _sums(shares_NE, grouping)
            logs_NK = sums_NK.log().add_(top_NK)
        if ctx.needs_input_grad[0]:
            # each id's share in its group; an empty group has no members to share
            ctx.save_for_backward(shares_NE.div_(sums_NK.index_select(1, groups)).nan_to_num_(nan=0.0))
        return total_NG.index_copy_(1, grouping.shared, logs_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        grouping: Grouping = ctx.grouping
        (gradient_NG,) = outputs
        parts = [gradient_NG]
        if grouping.shared.numel():
            (shares_NE,) = ctx.saved_tensors
            _, groups = grouping.members
            parts.append(gradient_NG.index_select(1, grouping.shared[groups]).mul_(shares_NE))
        if not grouping.complete:
            parts.append(gradient_NG.new_zeros(gradient_NG.shape[0], 1))
        # looked up for every id: writing to each place costs several times as much as reading from it
        return (torch.cat(parts, dim=1) if len(parts) > 1 else gradient_NG).index_select(1, grouping.slopes_at), None


def _sums(shares_NE: Tensor, grouping: Grouping) -> Tensor:
    """Return (N, K) the sums over the members of each group."""
    sums_NK = shares_NE.new_zeros(shares_NE.shape[0], grouping.shared.shape[0])
    return sums_NK.index_add_(1, grouping.members[1], shares_NE)


# torch does not type `apply`
_grouped = cast(Callable[[Tensor, Grouping], Tensor], _Grouped.apply)
