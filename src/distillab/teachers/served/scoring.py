"""Score rows by a server: its top k at each position, as the cache's kind top_k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distillab.cache.next_tokens import TopK
from distillab.errors import ConfigError
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import ScoringDialect, Wanted
from distillab.teachers.served.errors import RowFailed
from distillab.teachers.served.positions import joined


def score_row(client: Client, dialect: ScoringDialect, wanted: Wanted) -> TopK:
    """Return a row's positions.

    Raises:
        RowFailed: the server gave no usable answer.
        ServerError: the server cannot be used.
        ConfigError: the first token is to be scored; no server gives its log-probability.
    """
    if not wanted.scored:
        raise ConfigError("A row without a scored token was to be scored by a server.", where=wanted.where)
    if wanted.scored[0] < 1 or wanted.scored[-1] >= len(wanted.ids):
        raise ConfigError(
            "A token was to be scored that no model predicts.",
            where=wanted.where,
            facts=[f"places {wanted.scored[0]} to {wanted.scored[-1]} of {len(wanted.ids)} tokens; 0 has no prefix"],
        )
    return joined([client.ask(part.call, part.read, keep=wanted.kept) for part in dialect.calls(wanted)])


def score_rows(
    client: Client, dialect: ScoringDialect, rows: Sequence[Wanted], *, failed_rows: float = 0.0
) -> Iterator[tuple[Wanted, TopK | RowFailed]]:
    """Yield rows in their order, with their positions or why there are none; several are asked for at once.

    Args:
        failed_rows: largest share of the rows that may fail; 0: none may.
    Raises:
        ServerError: the server cannot be used, or too many rows failed.
    """
    return client.each(rows, lambda wanted: score_row(client, dialect, wanted), failed_rows=failed_rows)
