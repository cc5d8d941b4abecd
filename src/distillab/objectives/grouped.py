"""Sum token probabilities over the tokens that lead to an outcome, in log space, with a fused gradient.

Shape letters: N positions, V ids, G outcomes or groups, E entries, K outcomes of several entries, M entries of those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

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
    def _in_place(self) -> Tensor:
        """(G,) bool, an outcome of one entry that has the number of its id."""
        return (self.sizes == 1) & (self.first == torch.arange(self.sizes.shape[0], device=self.ids.device))

    @cached_property
    def moved(self) -> tuple[Tensor, Tensor] | None:
        """(·,) the outcomes of one entry that have another number than their id, and the ids; None: most have."""
        single = self.sizes == 1
        moved = (single & ~self._in_place).nonzero()[:, 0]
        return (moved, self.first[moved]) if 2 * moved.shape[0] < int(single.sum()) else None

    @cached_property
    def _passed_on(self) -> Tensor:
        """(E,) bool, entries whose slope the id takes as it is: one for each id, of outcomes of one entry."""
        if self.moved is not None:
            return self._in_place[self.outcomes]
        single = (self.sizes[self.outcomes] == 1).nonzero()[:, 0]
        ids, order = self.ids[single].sort(stable=True)
        begins = torch.ones_like(ids, dtype=torch.bool)
        begins[1:] = ids[1:] != ids[:-1]
        passed_on = torch.zeros_like(self.ids, dtype=torch.bool)
        passed_on[single[order[begins]]] = True
        return passed_on

    @cached_property
    def passed_on(self) -> Tensor:
        """(V,) the outcome of that entry of each id, int32; any where there is none."""
        place = torch.zeros(self.width, dtype=torch.int32, device=self.ids.device)
        place[self.ids[self._passed_on]] = self.outcomes[self._passed_on].int()
        return place

    @cached_property
    def has_passed_on(self) -> Tensor:
        """(V,) 1 for ids that have such an entry, 0 for the others."""
        has = torch.zeros(self.width, device=self.ids.device)
        has[self.ids[self._passed_on]] = 1.0
        return has

    @cached_property
    def added(self) -> tuple[Tensor, Tensor]:
        """(X,) the outcomes and the ids of the other entries, those of several at an outcome first: the M members."""
        single = self.sizes[self.outcomes] == 1
        places = torch.cat([self._members, (single & ~self._passed_on).nonzero()[:, 0]])
        return self.outcomes[places], self.ids[places]

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


def looked_up(logits_NV: Tensor, ids: Tensor) -> Tensor:
    """Return (N, len(ids)) the logits of many ids.

    They are read in order first: a look-up takes four times as long where no cache holds them.
    """
    return logits_NV.clone().index_select(1, ids)


def numbered_by_ids(ids: npt.NDArray[np.int64], outcomes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (G,) a new number of each outcome: that of its id, for outcomes of one entry, as far as it is free.

    Those are not looked up.

    Args:
        ids: (E,) of the entries of `Links`.
        outcomes: (E,) from 0 on.
    """
    sizes = np.bincount(outcomes)
    count = len(sizes)
    single = (sizes[outcomes] == 1) & (ids < count)
    taken, numbers = (np.full(count, -1, dtype=np.int64) for _ in range(2))
    taken[ids[single]] = outcomes[single]
    places = np.flatnonzero(taken >= 0)
    numbers[taken[places]] = places
    numbers[numbers < 0] = np.flatnonzero(taken < 0)
    return numbers


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


def sums(logits_NV: Tensor, links: Links, *, shares: bool) -> tuple[Tensor, Tensor | None]:
    """Return (N, G) what `summed` returns, without a graph, and (N, M) the share of each entry; None: not asked for.

    Outcomes of one entry are looked up; sums are computed only for the others.
    """
    total_NG = _first_logits(logits_NV, links)
    if links.log_weights is not None:
        total_NG += links.log_weights
    if not links.shared.numel():
        return total_NG, None
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
    if shares:
        # without mass there is nothing to share
        shares_NM.div_(sums_NK.index_select(1, places))
        shares_NM = shares_NM.nan_to_num_(nan=0.0) if lost else shares_NM
    return _write(total_NG, links.shared, sums_NK.log().add_(top)), shares_NM if shares else None


def slopes(gradient_NG: Tensor, links: Links, shares_NM: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Return (N, V) the gradient with respect to the logits, from that with respect to `sums`.

    Args:
        gradient_NG: with respect to the sums.
        links: theirs.
        shares_NM: from `sums`.
        out: memory for it, if it has as many numbers; `gradient_NG` itself may be given.
    """
    outcomes, ids = links.added
    added_NX = gradient_NG.index_select(1, outcomes)
    if shares_NM is not None:
        added_NX[:, : shares_NM.shape[1]] *= shares_NM
    return _passed_on(gradient_NG, links, out).index_add_(1, ids, added_NX)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, links: Links) -> Tensor:
        total_NG, shares_NM = sums(logits_NV, links, shares=ctx.needs_input_grad[0])
        ctx.links = links
        ctx.save_for_backward(shares_NM)
        return total_NG

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        (shares_NM,) = ctx.saved_tensors
        return slopes(outputs[0], ctx.links, shares_NM), None


def _first_logits(logits_NV: Tensor, links: Links) -> Tensor:
    """Return (N, G) the logit of an entry of each outcome; new memory. Anything at outcomes of several."""
    if links.moved is None:
        return looked_up(logits_NV, links.first)
    found_NG = pad(logits_NV, (0, links.sizes.shape[0] - links.width))
    moved, ids = links.moved
    return _write(found_NG, moved, logits_NV.index_select(1, ids))


def _passed_on(gradient_NG: Tensor, links: Links, out: Tensor | None) -> Tensor:
    """Return (N, V) what each id takes of one outcome as it is, 0 for the others."""
    if links.moved is None:
        return gradient_NG.index_select(1, links.passed_on).mul_(links.has_passed_on)
    size = gradient_NG.shape[1]
    if size == links.width:
        return torch.mul(gradient_NG, links.has_passed_on, out=out)
    return pad(gradient_NG, (0, links.width - size)).mul_(links.has_passed_on)


def _write(total_NG: Tensor, places: Tensor, numbers: Tensor) -> Tensor:
    """Write numbers (N, ·) to some places of each row; `index_copy_` takes twice as long."""
    return total_NG.scatter_(1, places.expand_as(numbers), numbers)


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
