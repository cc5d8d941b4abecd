"""Probe a server: what it gives is measured by a few requests, not taken from its name or its documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.cache.next_tokens import TopK
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import ScoringDialect, Wanted
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.exchange import Call
from distillab.teachers.served.positions import joined

# Two answers to one request, at another temperature or after another request, differ by rounding alone.
_ROUNDING_NATS = 2e-2
# The served weights and the local ones can have another number format; other weights differ by much more.
_SAME_MODEL_NATS = 0.1
Floats = npt.NDArray[np.float64]
LogProbabilities = Callable[[Sequence[int]], Floats]
"""Ids -> (L, W) log-probabilities of the token after each."""


@dataclass(frozen=True)
class Check:
    """A question to the server. passed: None where the answer is neither good nor bad."""

    name: str
    passed: bool | None
    found: str


def probe(
    client: Client,
    dialect: ScoringDialect,
    ids: Sequence[int],
    *,
    width: int,
    local: LogProbabilities | None = None,
) -> list[Check]:
    """Ask a server about ten times, and return what was found.

    Args:
        client: without a journal: every request is sent.
        ids: a text of eight tokens or more, as its tokenizer makes them, without a special token behind the first.
        width: W, ids of the teacher.
        local: the same model in this process.
    Raises:
        ServerError: the server cannot be used.
    """
    k = client.server.k
    wanted = Wanted(ids, range(1, len(ids)), k, width, "probe")
    try:
        first = _scored(client, dialect, wanted)
    except RowFailed as error:
        return [Check("scores given ids", False, "; ".join([error.rule, *error.facts]))]
    mass = np.exp(first.logp.astype(np.float64)).sum(axis=1)
    found = [
        Check("scores given ids", True, f"{len(ids) - 1} positions of {len(ids)} tokens; none was added"),
        Check("normalised", True, f"mass of the {k} entries {mass.min():.3f} to {mass.max():.3f}"),
        _tried("positions are aligned", lambda: _aligned(client, dialect, wanted, first)),
        _tried("k is honoured", lambda: _more(client, dialect, wanted, first)),
        _tried("raw at temperature 2", lambda: _same(first, _scored(client, dialect, wanted, {"temperature": 2.0}))),
        _tried("the same again", lambda: _same(first, _scored(client, dialect, wanted))),
        _tried("the same after its beginning", lambda: _after_beginning(client, dialect, wanted, first)),
        _unknown_fields(client, dialect, wanted),
        Check("names its model", None, client.backend or "no"),
    ]
    if local is not None:
        found.append(_same_model(first, wanted, local(ids)))
    return found


def _scored(client: Client, dialect: ScoringDialect, wanted: Wanted, more: Mapping[str, Any] | None = None) -> TopK:
    parts = dialect.calls(wanted)
    return joined([client.ask(Call(part.call.path, {**part.call.body, **(more or {})}), part.read) for part in parts])


def _tried(name: str, ask: Callable[[], tuple[bool | None, str]]) -> Check:
    try:
        return Check(name, *ask())
    except RowFailed as error:
        return Check(name, False, "; ".join([error.rule, *error.facts[-2:]]))


def _aligned(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool, str]:
    """Exchange one token for another: positions before it stay, its own value changes, and what follows too."""
    place = len(wanted.ids) // 2
    at = place - 1
    other = next(id_ for id_ in map(int, first.ids[at]) if id_ != int(wanted.ids[place]))
    ids = [*wanted.ids[:place], other, *wanted.ids[place + 1 :]]
    second = _scored(client, dialect, replace(wanted, ids=ids))
    entry = float(first.logp[at][first.ids[at] == other][0])
    before = float(np.abs(second.actual_logp[:at] - first.actual_logp[:at]).max(initial=0.0))
    own = abs(float(second.actual_logp[at]) - entry)
    after = float(np.abs(second.logp[at + 1] - first.logp[at + 1]).max())
    good = before <= _ROUNDING_NATS and own <= _ROUNDING_NATS and after > before
    return good, f"token {place} exchanged: before it {before:.1e}, its own {own:.1e}, behind it {after:.1e} nats"


def _more(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool | None, str]:
    k = min(2 * wanted.k, wanted.width)
    try:
        more = _scored(client, dialect, replace(wanted, k=k))
    except RowFailed as error:
        return None, f"{wanted.k} entries; {k} are refused: {(error.facts or (error.rule,))[0][:120]}"
    difference = float(np.abs(more.logp[:, : wanted.k] - first.logp).max())
    return difference <= _ROUNDING_NATS, f"{wanted.k} and {k} entries; the first {wanted.k} differ by {difference:.1e}"


def _same(first: TopK, second: TopK) -> tuple[bool, str]:
    difference = float(
        max(np.abs(second.logp - first.logp).max(), np.abs(second.actual_logp - first.actual_logp).max())
    )
    return difference <= _ROUNDING_NATS, f"differs by at most {difference:.1e} nats"


def _after_beginning(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool, str]:
    half = len(wanted.ids) // 2
    _scored(client, dialect, replace(wanted, ids=wanted.ids[:half], scored=range(1, half)))
    return _same(first, _scored(client, dialect, wanted))


def _unknown_fields(client: Client, dialect: ScoringDialect, wanted: Wanted) -> Check:
    name = "refuses unknown fields"
    try:
        _scored(client, dialect, wanted, {"no_such_field_of_a_request": 1})
    except RowFailed as error:
        return Check(name, None, f"yes: {(error.facts or (error.rule,))[0][:120]}")
    return Check(name, None, "no: a misspelt field is accepted in silence")


def _same_model(first: TopK, wanted: Wanted, logp_LW: Floats) -> Check:
    places = np.arange(len(wanted.ids) - 1)
    local_NK = np.take_along_axis(logp_LW[places], first.ids.astype(np.int64), axis=1)
    difference = np.abs(local_NK - first.logp)
    found = f"differs by at most {difference.max():.1e}, on average {difference.mean():.1e} nats"
    return Check("the same model as the local weights", bool(difference.max() <= _SAME_MODEL_NATS), found)
