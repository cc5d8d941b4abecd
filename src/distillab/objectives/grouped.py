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
    def log_weights(self) -> Tensor:
        """(G,) the logarithms of the weights of outcomes of one entry; 0 for the others."""
        if self.weights is None:
            return torch.zeros(self.sizes.shape, device=self.ids.device)
        return self.weights[self._first].log().masked_fill(self.sizes > 1, 0.0)

    @cached_property
    def shared(self) -> Tensor:
        """(K,) the outcomes of several entries."""
        return _places(self.sizes > 1)

    @cached_property
    def _single(self) -> Tensor:
        """(E,) bool, the entries of the other outcomes."""
        return self.sizes[self.outcomes] == 1

    @cached_property
    def _members(self) -> Tensor:
        """(M,) the places of the entries of those, first the written ones."""
        return torch.cat([_places(~self._single & self._written), _places(~self._single & ~self._written)])

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
    def moved(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """(·,) the outcomes of one entry with another number than their id, the ids, log-weights; None: most have."""
        single = self.sizes == 1
        moved = _places(single & ~self._in_place)
        few = 2 * moved.shape[0] < int(single.sum())
        return (moved, self.first[moved], self.log_weights[moved]) if few else None

    @cached_property
    def _passed_on(self) -> Tensor:
        """(E,) bool, entries whose slope the id takes as it is: one for each id, of outcomes of one entry."""
        if self.moved is not None:
            return self._in_place[self.outcomes]
        return self._one_each(_places(self._single))

    @cached_property
    def passed_on(self) -> Tensor:
        """(V,) the outcome of that entry of each id, int32; any where there is none."""
        place = torch.zeros(self.width, dtype=torch.int32, device=self.ids.device)
        place[self.ids[self._passed_on]] = self.outcomes[self._passed_on].int()
        return place

    @cached_property
    def _written(self) -> Tensor:
        """(E,) bool, an entry of each id of which none is passed on: it is written, and the others are added."""
        free = torch.ones(self.width, dtype=torch.bool, device=self.ids.device)
        free[self.ids[self._passed_on]] = False
        return self._one_each(torch.cat([_places(free[self.ids] & kind) for kind in (self._single, ~self._single)]))

    @cached_property
    def others(self) -> tuple[Tensor, Tensor]:
        """(X,) the outcomes and the ids of the entries that are not passed on.

        First those that are written: `alone` of outcomes of one entry, and the first of the M members; then the rest.
        """
        single = self._single & ~self._passed_on
        places = torch.cat([_places(single & self._written), self._members, _places(single & ~self._written)])
        return self.outcomes[places], self.ids[places]

    @cached_property
    def written(self) -> int:
        """How many are written."""
        return int(self._written.sum())

    @cached_property
    def alone(self) -> int:
        """How many of these are of outcomes of one entry."""
        return int((self._written & self._single).sum())

    @cached_property
    def nowhere(self) -> Tensor:
        """The ids that lead nowhere."""
        return _places(torch.bincount(self.ids, minlength=self.width) == 0)

    def _one_each(self, places: Tensor) -> Tensor:
        """Return (E,) bool, the first of some entries of each id."""
        ids, order = self.ids[places].sort(stable=True)
        begins = torch.ones_like(ids, dtype=torch.bool)
        begins[1:] = ids[1:] != ids[:-1]
        found = torch.zeros_like(self.ids, dtype=torch.bool)
        found[places[order[begins]]] = True
        return found

    @cached_property
    def complete(self) -> bool:
        """Whether every id leads somewhere."""
        return not self.nowhere.numel()

    @cached_property
    def trivial(self) -> bool:
        """Whether the outcomes are the ids themselves."""
        own = torch.arange(self.width, device=self.ids.device)
        plain = self.weights is None or bool((self.weights == 1).all())
        return plain and torch.equal(self.ids, own) and torch.equal(self.outcomes, own)


def _places(which: Tensor) -> Tensor:
    return which.nonzero()[:, 0]


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


def slopes(gradient_NG: Tensor, links: Links, shares_NM: Tensor | None, *, overwrite: bool = False) -> Tensor:
    """Return (N, V) the gradient with respect to the logits, from that with respect to `sums`.

    Args:
        gradient_NG: with respect to the sums.
        links: theirs.
        shares_NM: from `sums`.
        overwrite: use the memory of `gradient_NG`, if it has as many numbers.
    """
    outcomes, ids = links.others
    found_NX = gradient_NG.index_select(1, outcomes)
    if shares_NM is not None:
        found_NX[:, links.alone : links.alone + shares_NM.shape[1]] *= shares_NM
    gradient_NV = _passed_on(gradient_NG, links, overwrite=overwrite)
    _write(gradient_NV, ids[: links.written], found_NX[:, : links.written])
    return gradient_NV.index_add_(1, ids[links.written :], found_NX[:, links.written :])


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
    """Return (N, G) the weighted logit of an entry of each outcome; new memory. Anything at outcomes of several."""
    if links.moved is None:
        found_NG = looked_up(logits_NV, links.first)
        return found_NG if links.weights is None else found_NG.add_(links.log_weights)
    moved, ids, log_weights = links.moved
    found_NG = logits_NV.new_empty(logits_NV.shape[0], links.sizes.shape[0])
    some = slice(min(found_NG.shape[1], links.width))  # further ones are moved, or of several
    torch.add(logits_NV[:, some], links.log_weights[some], out=found_NG[:, some])
    return _write(found_NG, moved, logits_NV.index_select(1, ids).add_(log_weights))


def _passed_on(gradient_NG: Tensor, links: Links, *, overwrite: bool) -> Tensor:
    """Return (N, V) what each id takes of one outcome as it is; anything where it is written, 0 at ids without any."""
    if links.moved is None:
        found_NV = gradient_NG.index_select(1, links.passed_on)
    elif overwrite and gradient_NG.shape[1] == links.width:
        found_NV = gradient_NG
    else:
        found_NV = pad(gradient_NG, (0, links.width - gradient_NG.shape[1]))
    return found_NV.index_fill_(1, links.nowhere, 0.0) if links.nowhere.numel() else found_NV


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
