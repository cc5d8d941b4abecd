"""What a cache holds of the next token where it does not hold the whole distribution.

Shape letters: N scored positions, K kept tokens or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from distillab.cache.layout import Layout, SampledLayout, TopKLayout
from distillab.errors import TeacherError
from distillab.teachers.signals import Distribution, DrawnTokens, Draws, ScoreRequest, Top, TopTokens


@dataclass(frozen=True)
class CachedCapabilities:
    """Which forms of the next token a cache holds, apart from the whole distribution.

    where: the cache, for messages. width: ids that it speaks of. top, draws: what is stored; None where it is not.
    """

    where: str
    width: int
    top: TopKLayout | None
    draws: SampledLayout | None

    def supports(self, need: ScoreRequest) -> bool:
        """Whether what is asked for stands here, or follows from it without loss."""
        match need:
            case Top():
                kept = self.top
                return (
                    kept is not None
                    and need.k <= kept.k
                    and need.width == self.width
                    and need.temperature == kept.temperature
                )
            case Draws():
                asked = (need.samples, need.width, need.temperature)
                return self.draws is not None and asked == (self.draws.draws, self.width, self.draws.temperature)
            case Distribution():
                return False

    def refuse(self, need: ScoreRequest) -> NoReturn:
        """The error for a form that does not stand here.

        Raises:
            TeacherError: always.
        """
        raise TeacherError(
            "The cache does not hold what a term reads of the teacher.",
            where=self.where,
            facts=[f"needed: {_needed(need)}", *(f"stored: {text}" for text in self._stored())],
            fix="build a cache that has it: `distillab cache build` with cache: {kinds: ["
            + _kind_for(need)
            + "]}, or read the teacher itself: teacher: {path: …}",
        )

    def _stored(self) -> Sequence[str]:
        texts = []
        if self.top is not None:
            texts.append(_needed(Top(self.top.k, self.width, self.top.temperature)))
        if self.draws is not None:
            texts.append(_needed(Draws(self.draws.draws, self.width, self.draws.temperature)))
        return texts or ["nothing of the next token"]


def stored_forms(layouts: Sequence[Layout], *, width: int, where: str) -> CachedCapabilities:
    """The forms among a cache's layouts."""
    top = [layout for layout in layouts if isinstance(layout, TopKLayout)]
    draws = [layout for layout in layouts if isinstance(layout, SampledLayout)]
    return CachedCapabilities(where, width, top[0] if top else None, draws[0] if draws else None)


@dataclass(frozen=True)
class CachedDistribution:
    """The kept or the drawn tokens of each position, or both, as they were stored."""

    forms: CachedCapabilities
    positions: int
    kept: TopTokens | None
    draws: DrawnTokens | None

    @property
    def width(self) -> int:
        """Ids that the cache speaks of."""
        return self.forms.width

    def rows(self, here: slice) -> CachedDistribution:
        """The same at some of the positions."""
        return self._at(here, None)

    def chunk(self, here: slice | Tensor, device: torch.device) -> CachedDistribution:
        """The same at some of the positions, on a device."""
        return self._at(here, device)

    def tensors(self) -> dict[str, Tensor]:
        """The log-probabilities."""
        found = {}
        if self.kept is not None:
            found["the stored top_k log-probabilities"] = self.kept.logp
        if self.draws is not None:
            found["the stored draws' mean log-probabilities"] = self.draws.entropy_estimate
        return found

    def logp(self, width: int, temperature: float) -> Tensor:
        """Never there.

        Raises:
            TeacherError: always.
        """
        self.forms.refuse(Distribution(width, temperature))

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """The k most likely; those of the stored ones that are dropped go to the tail.

        Raises:
            TeacherError: not so many are stored, or at another temperature or width.
        """
        need = Top(k, width, temperature)
        if self.kept is None or not self.forms.supports(need):
            self.forms.refuse(need)
        kept = self.kept
        if k == kept.ids.shape[1]:
            return kept
        dropped = torch.cat([kept.logp[:, k:], kept.tail_logmass[:, None]], dim=1)
        return TopTokens(kept.ids[:, :k], kept.logp[:, :k], dropped.logsumexp(dim=1))

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """The stored draws, the same at every step.

        Raises:
            TeacherError: another number is stored, or at another temperature or width.
        """
        need = Draws(samples, width, temperature)
        if self.draws is None or not self.forms.supports(need):
            self.forms.refuse(need)
        return self.draws

    def _at(self, here: slice | Tensor, device: torch.device | None) -> CachedDistribution:
        kept, draws = self.kept, self.draws
        if kept is not None:
            parts = (_part(tensor, here, device) for tensor in (kept.ids, kept.logp, kept.tail_logmass))
            kept = TopTokens(*parts)
        if draws is not None:
            draws = DrawnTokens(_part(draws.ids, here, device), _part(draws.entropy_estimate, here, device))
        some = next(form for form in (kept, draws) if form is not None)
        return CachedDistribution(self.forms, some.ids.shape[0], kept, draws)


def _part(tensor: Tensor, here: slice | Tensor, device: torch.device | None) -> Tensor:
    part = tensor[here if isinstance(here, slice) else here.to(tensor.device)]
    return part if device is None else part.to(device)


def _needed(need: ScoreRequest) -> str:
    at = f"of the ids 0 to {need.width - 1} at temperature {need.temperature:g}"
    match need:
        case Top():
            return f"the {need.k} most likely {at}"
        case Draws():
            return f"{need.samples} draws {at}"
        case Distribution():
            return f"the whole distribution {at}"


def _kind_for(need: ScoreRequest) -> str:
    match need:
        case Top():
            return f"{{kind: top_k, k: {need.k}, temperature: {need.temperature:g}}}"
        case Draws():
            return f"{{kind: sampled, draws: {need.samples}, temperature: {need.temperature:g}}}"
        case Distribution():
            return "{kind: full}"
