"""Sum token probabilities over the tokens that lead to an outcome, in log space, with a fused gradient.

Shape letters: N positions, V ids, G outcomes or groups, E entries, K outcomes of several entries, M entries of those.
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
class Links:
    """Which ids lead to which outcomes: entries of a sparse (V, G) matrix.

    Attributes:
        ids: (E,) int64, in any order; no pair of an id and an outcome twice.
        outcomes: (E,) int64, ascending, from 0 on, each outcome with an entry at least.
        width: V.
        weights: (E,) float32, > 0; None: all 1.
    """

    ids: Tensor
    outcomes: Tensor
    width: int
    weights: Tensor | None = None

    @cached_property
    def sizes(self) -> Tensor:
        """(G,) the entries of each outcome."""
        return torch.bincount(self.outcomes)

    @cached_property
    def _first(self) -> Tensor:
        """(G,) the place of the first entry of each outcome."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def first(self) -> Tensor:
        """(G,) the id of that entry; int32, because a look-up by half of the bytes takes two thirds of the time."""
        return self.ids[self._first].int()

    @cached_property
    def log_weights(self) -> Tensor | None:
        """(G,) the logarithms of the weights of outcomes of one entry; None: all 0."""
        if self.weights is None:
            return None
        found = self.weights[self._first].log().masked_fill(self.sizes > 1, 0.0)
        return found if bool(found.any()) else None

    @cached_property
    def shared(self) -> Tensor:
        """(K,) the outcomes of several entries."""
        return (self.sizes > 1).nonzero()[:, 0]

    @cached_property
    def _members(self) -> Tensor:
        """(M,) the places of the entries of those."""
        return (self.sizes[self.outcomes] > 1).nonzero()[:, 0]

    @cached_property
    def members(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(M,) the ids of those entries, the place of the outcome of each among the K, and its weight."""
        place = torch.searchsorted(self.shared, self.outcomes[self._members])
        return self.ids[self._members], place, None if self.weights is None else self.weights[self._members]

    @cached_property
    def slopes_at(self) -> tuple[Tensor, Tensor, Tensor]:
        """(V,) the place of each id's slope, (X,) those of the further ones of ids with several, and (X,) these ids.

        int32 places: G outcomes, then M members, then one for ids that lead nowhere.
        """
        members, size = self._members, self.sizes.shape[0]
        slots = self.outcomes.clone()
        slots[members] = torch.arange(size, size + members.shape[0], device=slots.device)
        ids, order = self.ids.sort(stable=True)
        begins = torch.ones_like(ids, dtype=torch.bool)
        begins[1:] = ids[1:] != ids[:-1]
        place = slots.new_full((self.width,), size + members.shape[0])
        place[ids[begins]] = slots[order[begins]]
        return place.int(), slots[order[~begins]].int(), ids[~begins]

    @cached_property
    def complete(self) -> bool:
        """Whether every id leads somewhere."""
        return bool((torch.bincount(self.ids, minlength=self.width) > 0).all())

    @cached_property
    def trivial(self) -> bool:
        """Whether the outcomes are the ids themselves."""
        own = torch.arange(self.width, device=self.ids.device)
        plain = self.weights is None or bool((self.weights == 1).all())
        return plain and torch.equal(self.ids, own) and torch.equal(self.outcomes, own)


@dataclass(frozen=True, eq=False)
class Grouping:
    """The group of each id of a vocabulary.

    Attributes:
        of: (V,) int64, from 0 on, each group with an id at least; -1 for ids that are in none.
    """

    of: Tensor

    @cached_property
    def links(self) -> Links:
        """Each id in a group leads to it."""
        groups, ids = self.of.sort(stable=True)
        inside = groups >= 0
        return Links(ids[inside], groups[inside], self.of.shape[0])

    @property
    def complete(self) -> bool:
        """Whether every id is in a group."""
        return self.links.complete


def grouped(logp_NV: Tensor, grouping: Grouping) -> Tensor:
    """Return (N, G) log Σ exp over the ids of each group, see `summed`."""
    return summed(logp_NV, grouping.links)


def summed(logits_NV: Tensor, links: Links) -> Tensor:
    """Return (N, G) log Σ weight · exp over the ids that lead to each outcome; −inf where none has any mass.

    Differentiable once. Ids that lead nowhere are left out; nothing is normalised.
    """
    return logits_NV if links.trivial else _summed(logits_NV, links)


class _Summed(torch.autograd.Function):
    """Outcomes of one entry are looked up; sums are computed only for the others."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, links: Links) -> Tensor:
        total_NG = logits_NV.index_select(1, links.first)
        if links.log_weights is not None:
            total_NG += links.log_weights
        ctx.links = links
        if not links.shared.numel():
            return total_NG
        ids, places, _ = links.members
        members_NM = logits_NV.index_select(1, ids)
        top = _finite(members_NM.amax(dim=-1, keepdim=True))
        shares_NM, sums_NK = _shares(members_NM - top, links)
        lost = bool((sums_NK.amin(dim=-1) < _LEAST_SUM).any())
        if lost:
            # too little for the sum to be exact: scaled by the largest of each outcome, which takes three times as long
            top = sums_NK.new_full(sums_NK.shape, -torch.inf)
            top = _finite(top.scatter_reduce_(1, places.expand_as(members_NM), members_NM, "amax"))
            shares_NM, sums_NK = _shares(members_NM - top.index_select(1, places), links)
        if ctx.needs_input_grad[0]:
            # each entry's share in its outcome; without mass there is nothing to share
            shares_NM.div_(sums_NK.index_select(1, places))
            ctx.save_for_backward(shares_NM.nan_to_num_(nan=0.0) if lost else shares_NM)
        return total_NG.index_copy_(1, links.shared, sums_NK.log().add_(top))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        links: Links = ctx.links
        (gradient_NG,) = outputs
        parts = [gradient_NG]
        if links.shared.numel():
            (shares_NM,) = ctx.saved_tensors
            parts.append(gradient_NG.index_select(1, links.shared[links.members[1]]).mul_(shares_NM))
        if not links.complete:
            parts.append(gradient_NG.new_zeros(gradient_NG.shape[0], 1))
        slopes = torch.cat(parts, dim=1) if len(parts) > 1 else gradient_NG
        # looked up for every id: writing to each place costs several times as much as reading from it
        place, further, ids = links.slopes_at
        found_NV = slopes.index_select(1, place)
        return found_NV.index_add_(1, ids, slopes.index_select(1, further)) if ids.numel() else found_NV, None


def _finite(top: Tensor) -> Tensor:
    """Return the largest of some logits; 0 where they have no mass, and nothing is to be scaled."""
    return top.masked_fill_(top == -torch.inf, 0.0)


def _shares(scaled_NM: Tensor, links: Links) -> tuple[Tensor, Tensor]:
    """Return (N, M) what each entry adds to its outcome, over the argument, and (N, K) the sums."""
    _, places, weights = links.members
    shares_NM = scaled_NM.exp_() if weights is None else scaled_NM.exp_().mul_(weights)
    sums_NK = shares_NM.new_zeros(shares_NM.shape[0], links.shared.shape[0])
    return shares_NM, sums_NK.index_add_(1, places, shares_NM)


# torch does not type `apply`
_summed = cast(Callable[[Tensor, Links], Tensor], _Summed.apply)
