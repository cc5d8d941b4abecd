"""Read next-token distributions that are stored: the kinds `top_k` and `sampled`.

Shape letters: N scored positions, n some of them, K kept tokens, S draws, W ids that the distribution is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from distillab.cache.kinds import Layout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.reader import CacheReader
from distillab.errors import TeacherError
from distillab.teachers.signals import (
    Distribution,
    DrawnTokens,
    Draws,
    ScoreRequest,
    SignalRequest,
    Top,
    TopTokens,
    log_probabilities,
)
from distillab.teachers.stored.arrays import as_tensor

ACTUAL_LOGP = "actual log-probabilities"
"""In a cache's engine: "not known" where another tool stored only the kept tokens'."""


@dataclass(frozen=True)
class CachedCapabilities:
    """The forms of the next-token distribution that a cache holds, apart from the whole one.

    where: the cache, for messages. width: ids of its distribution. top, draws: what is stored; None if it is not
        stored. has_actual: whether the log-probability of each actual token is known.
    """

    where: str
    width: int
    top: TopKLayout | None
    draws: SampledLayout | None
    has_actual: bool = True

    @classmethod
    def of(cls, layouts: Sequence[Layout], *, width: int, where: str, has_actual: bool = True) -> CachedCapabilities:
        """Return the forms among a cache's layouts."""
        top = next((layout for layout in layouts if isinstance(layout, TopKLayout)), None)
        draws = next((layout for layout in layouts if isinstance(layout, SampledLayout)), None)
        return cls(where, width, top, draws, has_actual)

    def supports(self, need: ScoreRequest) -> bool:
        """Return whether `need` is stored, or follows without loss from a stored form."""
        match need:
            case Top():
                kept = self.top
                fits = kept is not None and need.k <= kept.k and need.temperature == kept.temperature
                return fits and need.width == self.width
            case Draws():
                wanted = (need.samples, need.width, need.temperature)
                return self.draws is not None and wanted == (self.draws.draws, self.width, self.draws.temperature)
            case Distribution():
                kept = self.top
                return kept is not None and kept.temperature == 1.0 and kept.k >= self.width == need.width

    def read(
        self, reader: CacheReader, rows: Sequence[int], request: SignalRequest, device: torch.device
    ) -> KeptDistribution:
        """Return the stored forms that `request` names, of some rows."""
        kept, draws, actual_N = None, None, None
        if any(not isinstance(need, Draws) for need in request.scores):
            top = reader.read_flat(rows, "top_k")
            assert isinstance(top, TopK)
            tensors = (as_tensor(array, device) for array in (top.ids, top.logp, top.tail_logmass, top.actual_logp))
            ids_NK, logp_NK, tail_N, actual_N = tensors
            kept = TopTokens(ids_NK.long(), logp_NK, tail_N)
            actual_N = actual_N if self.has_actual else None
        if any(isinstance(need, Draws) for need in request.scores):
            drawn = reader.read_flat(rows, "sampled")
            assert isinstance(drawn, Sampled)
            draws = DrawnTokens(as_tensor(drawn.drawn(), device).long(), as_tensor(drawn.entropy_estimate, device))
        return KeptDistribution(self, kept, draws, actual_N)

    def refuse(self, need: ScoreRequest) -> NoReturn:
        """Raise TeacherError for a form that is not stored."""
        stored = []
        if self.top is not None:
            stored.append(form_of(Top(self.top.k, self.width, self.top.temperature)))
        if self.draws is not None:
            stored.append(form_of(Draws(self.draws.draws, self.width, self.draws.temperature)))
        raise TeacherError(
            "The cache does not hold the signal that a term reads.",
            where=self.where,
            facts=[
                f"needed: {form_of(need)}",
                *(f"stored: {text}" for text in stored or ["nothing of the next token"]),
            ],
            fix=f"build a cache that has it: `distillab cache build` with cache: {{kinds: [{_kind_for(need)}]}}, or "
            "read the teacher itself: teacher: {path: …}",
        )


class Gives(Protocol):
    """What a source gives of the next tokens, over `width` ids."""

    @property
    def width(self) -> int:
        """Ids of the distribution."""
        ...

    def supports(self, need: ScoreRequest) -> bool:
        """Return whether `need` is given, or follows without loss from what is."""
        ...

    def refuse(self, need: ScoreRequest) -> NoReturn:
        """Raise TeacherError for what is not given."""
        ...


@dataclass(frozen=True)
class KeptDistribution:
    """The kept or the drawn tokens of each position, or both, as a cache or a server gives them.

    Where all `width` tokens are kept, that is the whole distribution.

    actual_N: (N,) log-probability of the token that follows, stored beside the kept ones.
    """

    capabilities: Gives
    kept: TopTokens | None
    draws: DrawnTokens | None
    actual_N: Tensor | None

    @property
    def positions(self) -> int:
        """N."""
        return next(form for form in (self.kept, self.draws) if form is not None).ids.shape[0]

    @property
    def width(self) -> int:
        """Ids of the distribution."""
        return self.capabilities.width

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return next(iter(self.tensors().values())).device

    def rows(self, here: slice) -> KeptDistribution:
        """Return the same at some of the positions."""
        return self._at(here, None)

    def chunk(self, here: slice | Tensor, device: torch.device) -> KeptDistribution:
        """Return the same at some of the positions, on a device."""
        return self._at(here, device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the log-probabilities."""
        found = {}
        if self.kept is not None:
            found["the top_k log-probabilities"] = self.kept.logp
        if self.draws is not None:
            found["the stored draws' mean log-probabilities"] = self.draws.entropy_estimate
        return found

    def logp(self, width: int, temperature: float) -> Tensor:
        """Return the whole distribution.

        Raises:
            TeacherError: only a part of it is kept.
        """
        need = Distribution(width, temperature)
        if self.kept is None or not self.capabilities.supports(need):
            self.capabilities.refuse(need)
        positions = self.kept.ids.shape[0]
        logits_NW = self.kept.logp.new_full((positions, width), -torch.inf)
        return log_probabilities(logits_NW.scatter_(1, self.kept.ids, self.kept.logp), width, temperature)

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """Return the k most likely tokens; further stored ones are added to the tail.

        Raises:
            TeacherError: fewer are stored, or at another temperature or width.
        """
        need = Top(k, width, temperature)
        kept = self.kept
        if kept is None or not self.capabilities.supports(need):
            self.capabilities.refuse(need)
        return kept.first(k)

    def actual(self, targets_n: Tensor, width: int, temperature: float) -> Tensor:
        """Return the stored log-probabilities of the tokens that follow. Raises as `top`."""
        need = Top(1, width, temperature)
        if self.actual_N is None or not self.capabilities.supports(need):
            self.capabilities.refuse(need)
        return self.actual_N

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """Return the stored draws, the same at every step.

        Raises:
            TeacherError: another number is stored, or at another temperature or width.
        """
        need = Draws(samples, width, temperature)
        if self.draws is None or not self.capabilities.supports(need):
            self.capabilities.refuse(need)
        return self.draws

    def _at(self, here: slice | Tensor, device: torch.device | None) -> KeptDistribution:
        kept, draws, actual_N = self.kept, self.draws, self.actual_N
        if kept is not None:
            kept = TopTokens(*(_part(part, here, device) for part in (kept.ids, kept.logp, kept.tail_logmass)))
        if draws is not None:
            draws = DrawnTokens(_part(draws.ids, here, device), _part(draws.entropy_estimate, here, device))
        if actual_N is not None:
            actual_N = _part(actual_N, here, device)
        return KeptDistribution(self.capabilities, kept, draws, actual_N)


def _part(tensor: Tensor, here: slice | Tensor, device: torch.device | None) -> Tensor:
    part = tensor[here if isinstance(here, slice) else here.to(tensor.device)]
    return part if device is None else part.to(device)


def form_of(need: ScoreRequest) -> str:
    """Return a request in words."""
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
