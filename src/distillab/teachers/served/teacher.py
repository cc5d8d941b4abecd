"""`ServedTeacher`: a source of signals whose weights are behind a server. It gives the k most likely tokens.

Shape letters: B sequences, L positions, N flattened scored positions, K kept entries, W teacher vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from distillab.config.served import ServerConfig
from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_positions
from distillab.records import AccessLevel, ServedCost, ServerProbe, TeacherProvenance
from distillab.teachers.protocol import NO_LAYERS, TeacherIdentity
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import ScoringDialect, Wanted
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.positions import joined
from distillab.teachers.served.scoring import score_rows
from distillab.teachers.signals import DrawnTokens, Draws, ScoreRequest, SignalRequest, TeacherSignal, Top, TopTokens


@dataclass(frozen=True)
class ServedCapabilities:
    """What the server gives: the `k` most likely of `width` ids, at temperature 1; where: its address."""

    where: str
    k: int
    width: int

    def require_all(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the server gives what the terms read.

        Raises:
            TeacherError: it does not.
        """
        if packing:
            self.refuse("rows that are packed into one sequence; set training.packing: false")
        if request.activations:
            self.refuse("activations")
        for need in request.scores:
            self.require(need)

    def require(self, need: ScoreRequest) -> None:
        """Raise TeacherError for what the server does not give."""
        match need:
            case Top() if need.temperature != 1.0:
                self.refuse(f"temperature {need.temperature:g}: the mass outside of the {self.k} entries is not known")
            case Top() if need.width != self.width:
                self.refuse(f"the distribution over {need.width} ids; the teacher has {self.width}")
            case Top() if need.k > self.k:
                self.refuse(f"the {need.k} most likely tokens; teacher.server.k is {self.k}")
            case Top():
                return
            case Draws():
                self.refuse("draws from the distribution")
            case _:
                self.refuse("the whole distribution")

    def refuse(self, what: str) -> NoReturn:
        """Raise TeacherError."""
        raise TeacherError(
            "The server does not give the signal that a term reads.",
            where=self.where,
            facts=[f"needed: {what}", f"given: the {self.k} most likely tokens at temperature 1, and their tail"],
            fix="use a term that reads the k most likely tokens (top_k_divergence), or a teacher with weights",
        )


@dataclass(frozen=True)
class ServedScores:
    """The kept tokens of each position, and the log-probability of the token that follows."""

    capabilities: ServedCapabilities
    kept: TopTokens
    actual_N: Tensor

    @property
    def positions(self) -> int:
        """N."""
        return self.kept.ids.shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.capabilities.width

    @property
    def device(self) -> torch.device:
        """Of the tensors."""
        return self.actual_N.device

    def rows(self, here: slice) -> ServedScores:
        """Return the same at some of the positions."""
        return self.chunk(here, self.device)

    def chunk(self, here: slice | Tensor, device: torch.device) -> ServedScores:
        """Return the same at some of the positions, on a device."""
        at = here if isinstance(here, slice) else here.to(self.device)
        parts = (part[at].to(device) for part in (self.kept.ids, self.kept.logp, self.kept.tail_logmass))
        return ServedScores(self.capabilities, TopTokens(*parts), self.actual_N[at].to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the log-probabilities."""
        return {"the served top_k log-probabilities": self.kept.logp}

    def logp(self, width: int, temperature: float) -> Tensor:
        """Raise TeacherError: a server gives no whole distribution."""
        self.capabilities.refuse("the whole distribution")

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """Return the k most likely tokens; further ones are added to the tail.

        Raises:
            TeacherError: fewer were asked for, or another width or temperature is wanted.
        """
        self.capabilities.require(Top(k, width, temperature))
        return self.kept.first(k)

    def actual(self, targets_n: Tensor, width: int, temperature: float) -> Tensor:
        """Return the log-probabilities of the tokens that follow. Raises as `top`."""
        self.capabilities.require(Top(1, width, temperature))
        return self.actual_N

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """Raise TeacherError: a server gives no draws."""
        self.capabilities.refuse("draws from the distribution")


def served_identity(
    server: ServerConfig,
    access: AccessLevel,
    *,
    width: int,
    name: str,
    template_sha256: str,
    probe: ServerProbe | None,
) -> TeacherIdentity:
    """Return the identity of a teacher behind a server; the arguments as of `ServedTeacher`."""
    provenance = TeacherProvenance(
        name=name,
        weights_sha256=server.identity_sha256,
        parameters=0,
        dtype="unknown",
        template_sha256=template_sha256,
    )
    engine = {"server": server.url, "dialect": server.dialect, "model": server.model or ""}
    if probe is not None:
        passed = "; ".join(check.name for check in probe.checks if check.passed)
        engine |= {"dialect": probe.dialect, "backend": probe.backend, "probed": passed}
    return TeacherIdentity(provenance, access, None, NO_LAYERS, "float32", width, width, engine=engine)


class ServedTeacher:
    """A teacher behind a server that scores given ids.

    Args:
        client: of the server. dialect: of its API.
        width: W, ids of the distributions; the mass of ids beyond it is in the tail. If one of them is among the k most
            likely, the row is refused.
        name: in records. template_sha256: of the template by which it reads rows.
        device: of the signal.
        probe: what was measured of the server; None: nothing was.
    """

    def __init__(
        self,
        client: Client,
        dialect: ScoringDialect,
        *,
        width: int,
        name: str,
        template_sha256: str,
        device: torch.device,
        probe: ServerProbe | None = None,
    ) -> None:
        self._client, self._dialect, self._device, self.probe = client, dialect, device, probe
        server = client.server
        self._gives = ServedCapabilities(server.url, server.k, width)
        self.identity = served_identity(
            server, "top_k", width=width, name=name, template_sha256=template_sha256, probe=probe
        )

    @property
    def cost(self) -> ServedCost | None:
        """What its stored answers took, over all starts; None if there are none."""
        return self._client.cost

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the server gives what the terms read.

        Raises:
            TeacherError: it does not.
        """
        self._gives.require_all(request, packing=packing)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the k most likely tokens at the scored positions; rows that were asked before come from the journal.

        Raises:
            TeacherError: a row has no usable answer, or the server cannot be used.
        """
        if not request.scores:
            return TeacherSignal()
        scored = score_rows(self._client, self._dialect, self._wanted(batch))
        parts = [each for _, each in scored if not isinstance(each, RowFailed)]  # one that failed has raised an error
        top = joined(parts)
        ids_NK, logp_NK, tail_N, actual_N = (
            torch.from_numpy(array).to(self._device) for array in (top.ids, top.logp, top.tail_logmass, top.actual_logp)
        )
        return TeacherSignal(scores=ServedScores(self._gives, TopTokens(ids_NK.long(), logp_NK, tail_N), actual_N))

    def _wanted(self, batch: TokenBatch) -> list[Wanted]:
        """Return the rows with a scored token, in their order, without padding."""
        found = []
        columns = (batch["input_ids"], batch["attention_mask"], scored_positions(batch))
        for place, (ids_L, mask_L, scored_L) in enumerate(zip(*(column.cpu() for column in columns), strict=True)):
            first = int(mask_L.long().argmax())  # padding can be on the left
            scored = (scored_L.nonzero()[:, 0] + 1 - first).tolist()
            if scored:
                ids = ids_L[mask_L.bool()].tolist()
                found.append(Wanted(ids, scored, self._gives.k, self._gives.width, f"row {place + 1} of the batch"))
        return found
