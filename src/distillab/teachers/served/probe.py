"""Probe a server: what it gives is measured by a few requests, not taken from its name or its documents.

Shape letters: L tokens of a row, N its scored positions, K entries of a position, W teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.cache.next_tokens import MASS_SLACK, TopK
from distillab.records import ServerCheck
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import ScoringDialect, Wanted
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.exchange import Call
from distillab.teachers.served.positions import joined

# Two answers to one request, after another one or in another batch, differ by rounding alone. In bfloat16 a logit of 16
# has steps of 0.125: with a cached prefix, a small model's differed by 0.008 on average and 0.065 at most.
_MEAN_NATS, _LARGEST_NATS = 0.05, 0.5
# The served weights and the local ones can have another number format, in every layer.
_SAME_MODEL_TIMES = 2
Floats = npt.NDArray[np.float64]
LogProbabilities = Callable[[Sequence[int]], Floats]
"""Ids -> (L, W) log-probabilities of the token after each."""


TEXT = "Once upon a time there was a little dog. It said: hello! He was happy."


def probe(
    client: Client,
    dialect: ScoringDialect,
    ids: Sequence[int],
    *,
    width: int,
    local: LogProbabilities | None = None,
    rows: Sequence[Sequence[int]] = (),
) -> list[ServerCheck]:
    """Ask a server about ten times, and return what was found.

    Args:
        client: without a journal: every request is sent.
        ids: a text of eight tokens or more, as its tokenizer makes them, without a special token behind the first.
        width: W, ids of the teacher.
        local: the same model in this process; it is compared on `ids` and on `rows`.
    Raises:
        ServerError: the server cannot be used.
    """
    k = max(2, client.server.k)  # one of two entries can be exchanged for the actual token
    wanted = Wanted(ids, range(1, len(ids)), k, width, "probe")
    try:
        first = _scored(client, dialect, wanted)
    except RowFailed as error:
        return [_check("scores given ids", False, "; ".join([error.rule, *error.facts]))]
    found = [
        _check("scores given ids", True, f"{len(ids) - 1} positions of {len(ids)} ids, keyed by ids; none was added"),
        _tried("normalised", lambda: _normalised(client, dialect, wanted, first)),
        _tried("positions are aligned", lambda: _aligned(client, dialect, wanted, first)),
        *_more(client, dialect, wanted, first),
        _tried("raw at temperature 2", lambda: _same(first, _scored(client, dialect, wanted, dialect.hot))),
        _tried("the same again", lambda: _same(first, _scored(client, dialect, wanted))),
        _tried("the same after its beginning", lambda: _after_beginning(client, dialect, wanted, first)),
        _tried("refuses unknown fields", lambda: _unknown_fields(client, dialect, wanted)),
        _check("names its model", None, client.backend or "no"),
    ]
    if local is not None:
        found.append(
            _tried("the same model as the local weights", lambda: _same_model(client, dialect, wanted, rows, local))
        )
    return found


def _check(name: str, passed: bool | None, found: str) -> ServerCheck:
    return ServerCheck(name=name, passed=passed, found=found)


def _scored(client: Client, dialect: ScoringDialect, wanted: Wanted, more: Mapping[str, Any] | None = None) -> TopK:
    parts = dialect.calls(wanted)
    return joined([client.ask(Call(part.call.path, {**part.call.body, **(more or {})}), part.read) for part in parts])


def _tried(name: str, ask: Callable[[], tuple[bool | None, str]]) -> ServerCheck:
    try:
        return _check(name, *ask())
    except RowFailed as error:
        return _check(name, False, "; ".join([error.rule, *error.facts[-2:]]))


def _normalised(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool | None, str]:
    """Ask for all W at one position; a server may refuse so many."""
    mass_N = np.exp(first.logp.astype(np.float64)).sum(axis=1)
    some = f"mass of the {wanted.k} entries {mass_N.min():.3f} to {mass_N.max():.3f}"
    try:
        all_ = _scored(client, dialect, replace(wanted, ids=wanted.ids[:2], scored=(1,), k=wanted.width))
    except RowFailed as error:
        return None, f"{some}; all {wanted.width} are refused: {_why(error)}"
    whole = float(np.exp(all_.logp.astype(np.float64)).sum())
    return abs(whole - 1) <= MASS_SLACK, f"{some}, of all {wanted.width} {whole:.6f}"


def _aligned(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool, str]:
    """Exchange one token for another: positions before it stay, its own value changes, and what follows too."""
    place = len(wanted.ids) // 2
    at = place - 1
    other = next(id_ for id_ in map(int, first.ids[at]) if id_ != int(wanted.ids[place]))
    second = _scored(client, dialect, _exchanged(wanted, place, other))
    entry = float(first.logp[at][first.ids[at] == other][0])
    before_N = np.abs(second.actual_logp[:at] - first.actual_logp[:at])
    own = abs(float(second.actual_logp[at]) - entry)
    after = float(np.abs(second.logp[at + 1] - first.logp[at + 1]).max())
    good = _rounding(before_N) and own <= _LARGEST_NATS and after > before_N.max()
    return bool(
        good
    ), f"token {place} exchanged: before it {before_N.max():.1e}, its own {own:.1e}, behind it {after:.1e} nats"


def _exchanged(wanted: Wanted, place: int, id_: int) -> Wanted:
    return replace(wanted, ids=[*wanted.ids[:place], id_, *wanted.ids[place + 1 :]])


def _more(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> list[ServerCheck]:
    """Ask for 2k entries: the first k are the same, and one of the others keeps its value as the actual token."""
    k, names = min(2 * wanted.k, wanted.width), ("k is honoured", "a token outside of the k has its value")
    try:
        more = _scored(client, dialect, replace(wanted, k=k))
    except RowFailed as error:
        return [_check(name, None, f"{wanted.k} entries; {k} are refused: {_why(error)}") for name in names]
    difference = np.abs(more.logp[:, : wanted.k] - first.logp)
    found = f"{wanted.k} and {k} entries; the first {wanted.k} differ by at most {difference.max():.1e}"
    checks = [_check(names[0], _rounding(difference), found)]
    if k > wanted.k:
        checks.append(_tried(names[1], lambda: _outside(client, dialect, wanted, more)))
    return checks


def _outside(client: Client, dialect: ScoringDialect, wanted: Wanted, more: TopK) -> tuple[bool, str]:
    place = len(wanted.ids) // 2
    at = place - 1
    value = _scored(client, dialect, _exchanged(wanted, place, int(more.ids[at, wanted.k]))).actual_logp[at]
    difference = abs(float(value) - float(more.logp[at, wanted.k]))
    return (
        difference <= _LARGEST_NATS,
        f"the {wanted.k + 1}th, exchanged for token {place}: differs by {difference:.1e}",
    )


def _same(first: TopK, second: TopK) -> tuple[bool, str]:
    difference = np.abs(np.column_stack([second.logp - first.logp, second.actual_logp - first.actual_logp]))
    return _rounding(difference), f"differs by at most {difference.max():.1e} nats"


def _rounding(difference: npt.NDArray[np.floating[Any]], times: float = 1) -> bool:
    return bool(difference.mean() <= times * _MEAN_NATS and difference.max() <= times * _LARGEST_NATS)


def _after_beginning(client: Client, dialect: ScoringDialect, wanted: Wanted, first: TopK) -> tuple[bool, str]:
    half = len(wanted.ids) // 2
    _scored(client, dialect, replace(wanted, ids=wanted.ids[:half], scored=range(1, half)))
    return _same(first, _scored(client, dialect, wanted))


def _unknown_fields(client: Client, dialect: ScoringDialect, wanted: Wanted) -> tuple[None, str]:
    try:
        _scored(client, dialect, wanted, {"no_such_field_of_a_request": 1})
    except RowFailed as error:
        return None, f"yes: {_why(error)}"
    return None, "no: a misspelt field is accepted in silence"


def _same_model(
    client: Client, dialect: ScoringDialect, wanted: Wanted, rows: Sequence[Sequence[int]], local: LogProbabilities
) -> tuple[bool, str]:
    differences = []
    for ids in (wanted.ids, *rows):
        served = _scored(client, dialect, replace(wanted, ids=ids, scored=range(1, len(ids))))
        local_NK = np.take_along_axis(local(ids)[:-1], served.ids.astype(np.int64), axis=1)
        differences.append(np.abs(local_NK - served.logp).ravel())
    all_ = np.concatenate(differences)
    found = f"differs by at most {all_.max():.1e}, on average {all_.mean():.1e} nats, over {len(differences)} rows"
    return _rounding(all_, _SAME_MODEL_TIMES), found


def _why(error: RowFailed) -> str:
    return (error.facts or (error.rule,))[0][:120]
