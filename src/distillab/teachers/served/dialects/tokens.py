"""Checks of answers that servers give as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillab.models.generation import Generated
from distillab.teachers.protocol import Sampling
from distillab.teachers.served.errors import WrongAnswer


def require_counts(counted: Mapping[str, tuple[int, int]], *, where: str) -> None:
    """Check numbers: name -> the server's, and the one that it must be.

    Raises:
        WrongAnswer: they differ.
    """
    facts = [f"{name}: the server {got}, sent {sent}" for name, (got, sent) in counted.items() if got != sent]
    if facts:
        raise WrongAnswer(
            "The server read or counted another number of tokens than was sent.",
            where=where,
            facts=facts,
            fix="a server that adds a BOS token, or cuts the row, gives values of another text",
        )


def until_stop(ids: Sequence[int], sampling: Sampling, *, ended: bool, stop_id: int | None) -> Generated:
    """Return an answer up to its first stop token, which may or may not be among the ids.

    Args:
        ended: the server ended it, not its length.
        stop_id: the token by which the server ended it; None: it names none.
    """
    for place, id_ in enumerate(ids):
        if id_ in sampling.stop_ids or (id_ == stop_id and place == len(ids) - 1):
            return Generated(tuple(ids[:place]), id_)
    return Generated(tuple(ids), (sampling.stop_ids[0] if stop_id is None else stop_id) if ended else None)
