"""`ServedTeacher`: a source of signals whose weights are behind a server. It gives the k most likely tokens.

Shape letters: B sequences, L positions, N flattened scored positions, K kept entries, W teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from distillab.cache.next_tokens import TopK
from distillab.config.served import ServerConfig
from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_positions
from distillab.records import AccessLevel, ServedCost, ServerProbe, TeacherProvenance
from distillab.teachers.protocol import NO_LAYERS, TeacherIdentity
from distillab.teachers.served.client import Client
from distillab.teachers.served.cost import Projection
from distillab.teachers.served.dialects.dialect import ScoringDialect, Wanted
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.positions import joined
from distillab.teachers.served.scoring import score_rows
from distillab.teachers.signals import (
    Distribution,
    Draws,
    ScoreRequest,
    SignalRequest,
    TeacherSignal,
    Top,
    TopTokens,
)
from distillab.teachers.stored.kept_tokens import KeptDistribution, form_of


@dataclass(frozen=True)
class ServedCapabilities:
    """What the server gives: the `k` most likely of `width` ids, at temperature 1; where: its address.

    With k = width they are the whole distribution, from which that of another temperature follows.
    """

    where: str
    k: int
    width: int

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the server gives what the terms read.

        Raises:
            TeacherError: it does not.
        """
        if packing:
            raise self._refused("rows that are packed into one sequence; set training.packing: false")
        if request.activations:
            raise self._refused("activations")
        for need in sorted(request.scores, key=str):
            if not self.supports(need):
                self.refuse(need)

    def supports(self, need: ScoreRequest) -> bool:
        """See `Gives`."""
        match need:
            case Top():
                return need.k <= self.k and (need.width, need.temperature) == (self.width, 1.0)
            case Draws():
                return False
            case Distribution():
                return self.k >= self.width == need.width

    def refuse(self, need: ScoreRequest) -> NoReturn:
        """See `Gives`."""
        raise self._refused(form_of(need))

    def _refused(self, what: str) -> TeacherError:
        return TeacherError(
            "The server does not give the signal that a term reads.",
            where=self.where,
            facts=[
                f"needed: {what}",
                f"given: the {self.k} most likely of the ids 0 to {self.width - 1} at temperature 1, and their tail; "
                f"teacher.server.k is {self.k}",
            ],
            fix=f"use a term that reads the k most likely tokens (top_k_divergence); or k: {self.width}, which is the "
            "whole distribution, where the server gives so many; or a teacher with weights",
        )


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

    Attributes:
        on_scored: called with the rows of each signal and what the server gave for them.
        keeps: whether what the server gives for a row, by its ids, is stored.
        remembered: of how many rows that are not stored the last is remembered, which a step can read again.
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
        self._projection: Projection | None = None
        self.on_scored: Callable[[Sequence[Wanted], Sequence[TopK]], None] | None = None
        self.keeps: Callable[[Sequence[int]], bool] = lambda _: True
        self.remembered = 0
        self._last: dict[tuple[int, ...], TopK] = {}
        self.identity = served_identity(
            server,
            "logits" if server.k >= width else "top_k",
            width=width,
            name=name,
            template_sha256=template_sha256,
            probe=probe,
        )

    def announce(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Print what scoring rows will cost; after the first batch, what it will cost by it."""
        self._projection = Projection(self._client.account, "rows", sizes, self._client.cost)

    @property
    def cost(self) -> ServedCost | None:
        """What its stored answers took, over all starts; None if there are none."""
        return self._client.cost

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the server gives what the terms read.

        Raises:
            TeacherError: it does not.
        """
        self._gives.require(request, packing=packing)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the k most likely tokens at the scored positions; rows that were asked before come from the journal.

        Raises:
            TeacherError: a row has no usable answer, or the server cannot be used.
        """
        if not request.scores:
            return TeacherSignal()
        rows, before = self._wanted(batch), self._client.account.paid
        scored = score_rows(self._client, self._dialect, [row for row in rows if _key(row) not in self._last])
        # one that failed has raised an error
        found = self._last | {_key(row): each for row, each in scored if not isinstance(each, RowFailed)}
        parts = [found[_key(row)] for row in rows]
        if self.remembered:
            self._last |= {_key(row): part for row, part in zip(rows, parts, strict=True) if not row.kept}
            self._last = dict(list(self._last.items())[-self.remembered :])
        if self._projection is not None:
            read = sum(len(row.ids) for row in rows)
            self._projection.measured(len(rows), read, before, self._client.account.paid)
        if self.on_scored is not None:
            self.on_scored(rows, parts)
        top = joined(parts)
        ids_NK, logp_NK, tail_N, actual_N = (
            torch.from_numpy(array).to(self._device) for array in (top.ids, top.logp, top.tail_logmass, top.actual_logp)
        )
        return TeacherSignal(
            scores=KeptDistribution(self._gives, TopTokens(ids_NK.long(), logp_NK, tail_N), None, actual_N)
        )

    def _wanted(self, batch: TokenBatch) -> list[Wanted]:
        """Return the rows with a scored token, in their order, without padding."""
        found = []
        columns = (batch["input_ids"], batch["attention_mask"], scored_positions(batch))
        for place, (ids_L, mask_L, scored_L) in enumerate(zip(*(column.cpu() for column in columns), strict=True)):
            first = int(mask_L.long().argmax())  # padding can be on the left
            scored = (scored_L.nonzero()[:, 0] + 1 - first).tolist()
            if scored:
                ids = ids_L[mask_L.bool()].tolist()
                where = f"row {place + 1} of the batch"
                found.append(Wanted(ids, scored, self._gives.k, self._gives.width, where, self.keeps(ids)))
        return found


def _key(row: Wanted) -> tuple[int, ...]:
    return (*row.scored, -1, *row.ids)
