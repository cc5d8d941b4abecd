"""The one form of scored text: what a server gives at each position, checked, as the cache's kind top_k.

Shape letters: N scored positions of a row, K entries of a position, W teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distillab.cache.next_tokens import MASS_SLACK, TopK
from distillab.teachers.served.errors import WrongAnswer

# A server sends -inf as -9999 (vLLM) or as the lowest float32 (llama.cpp); no float32 softmax reaches this.
_LOWEST = -1000.0
# Positive log-probabilities, and two values of the same token: rounding of a float32 softmax.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Position:
    """The next token at one position: entries in any order, and the token that follows in the text."""

    ids: Sequence[int]
    logp: Sequence[float]
    actual_id: int
    actual_logp: float


def top_k(positions: Sequence[Position], *, k: int, width: int, where: str) -> TopK:
    """Return the k most likely tokens of each position, the mass of all others, and the actual token.

        tail = 1 − Σ_k exp(logp), at least the actual token's probability where that is not among the k

    Args:
        k: entries that were asked for. width: W.
        where: the row, for messages.
    Raises:
        WrongAnswer: a position has another number of entries, an id twice or beyond W, a value that is no
            log-probability, more mass than one, or contradicts itself about the actual token.
    """
    for at, position in enumerate(positions):
        if not len(position.ids) == len(position.logp) == k:
            raise _wrong("has another number of entries than was asked for", where, at, f"{len(position.ids)}, not {k}")
    ids_NK = np.array([position.ids for position in positions], dtype=np.int64).reshape(-1, k)
    logp_NK = np.array([position.logp for position in positions], dtype=np.float64).reshape(-1, k)
    actual_N = np.array([position.actual_logp for position in positions], dtype=np.float64)
    actual_ids_N = np.array([position.actual_id for position in positions], dtype=np.int64)
    _check_values(np.concatenate([logp_NK, actual_N[:, None]], axis=1), where)
    _check_ids(ids_NK, width, where)
    order_NK = np.argsort(-logp_NK, axis=1, kind="stable")
    ids_NK, logp_NK = np.take_along_axis(ids_NK, order_NK, 1), np.take_along_axis(logp_NK, order_NK, 1)
    logp_NK, actual_N = np.minimum(logp_NK, 0.0), np.minimum(actual_N, 0.0)
    mass_N = np.exp(logp_NK).sum(axis=1)
    if (mass_N > 1 + MASS_SLACK).any():
        at = int(mass_N.argmax())
        raise _wrong("has more probability than one", where, at, f"mass of the {k} entries {mass_N[at]:.6g}")
    is_actual_NK = ids_NK == actual_ids_N[:, None]
    kept_N = is_actual_NK.any(axis=1)
    _check_actual(logp_NK, actual_N, is_actual_NK, where)
    tail_N = np.zeros_like(mass_N) if k == width else np.maximum(1 - mass_N, 0.0)
    tail_N = np.where(kept_N, tail_N, np.maximum(tail_N, np.exp(actual_N)))
    with np.errstate(divide="ignore"):
        tail_logmass_N = np.log(tail_N)
    return TopK(
        ids_NK.astype(np.int32),
        logp_NK.astype(np.float32),
        tail_logmass_N.astype(np.float32),
        actual_N.astype(np.float32),
    )


def joined(parts: Sequence[TopK]) -> TopK:
    """Return several positions one after another."""
    return TopK(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.logp for part in parts]),
        np.concatenate([part.tail_logmass for part in parts]),
        np.concatenate([part.actual_logp for part in parts]),
    )


def _check_values(logp: npt.NDArray[np.float64], where: str) -> None:
    # comparisons with NaN are False
    wrong: npt.NDArray[np.bool_] = np.logical_not((logp >= _LOWEST) & (logp <= _ROUNDING))
    if wrong.any():
        at, entry = np.argwhere(wrong)[0]
        raise _wrong("has a value that is no log-probability", where, int(at), f"{logp[at, entry]:g}")


def _check_ids(ids_NK: npt.NDArray[np.int64], width: int, where: str) -> None:
    outside_N: npt.NDArray[np.bool_] = (ids_NK.min(axis=1) < 0) | (ids_NK.max(axis=1) >= width)
    if outside_N.any():
        at = int(outside_N.argmax())
        raise _wrong(
            "has an id beyond the vocabulary", where, at, f"ids {ids_NK[at].min()} to {ids_NK[at].max()}; {width} ids"
        )
    twice_N: npt.NDArray[np.bool_] = (np.diff(np.sort(ids_NK, axis=1), axis=1) == 0).any(axis=1)
    if twice_N.any():
        raise _wrong("has an id twice", where, int(twice_N.argmax()), "the entries are not of different tokens")


def _check_actual(
    logp_NK: npt.NDArray[np.float64],
    actual_N: npt.NDArray[np.float64],
    is_actual_NK: npt.NDArray[np.bool_],
    where: str,
) -> None:
    kept_N: npt.NDArray[np.bool_] = np.any(is_actual_NK, axis=1, keepdims=False)
    here_N = np.where(kept_N, np.where(is_actual_NK, logp_NK, 0.0).sum(axis=1), actual_N)
    differs_N = np.abs(here_N - actual_N) > _ROUNDING
    # a token outside of the k most likely is not more likely than the last of them
    differs_N |= ~kept_N & (actual_N > logp_NK[:, -1] + _ROUNDING)
    if differs_N.any():
        at = int(differs_N.argmax())
        among = f"{here_N[at]:.4f} among the entries" if kept_N[at] else f"the last entry has {logp_NK[at, -1]:.4f}"
        raise _wrong("contradicts itself about the token that follows", where, at, f"{actual_N[at]:.4f}; {among}")


def _wrong(what: str, where: str, at: int, fact: str) -> WrongAnswer:
    return WrongAnswer(
        f"A position of the server's answer {what}.",
        where=f"{where}, scored position {at}",
        facts=[fact],
        fix="`distillab teacher probe URL` shows what the server gives; use another server, or dialect: openai_chat",
    )
