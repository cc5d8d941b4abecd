"""Which kind of attention mask is it? Each becomes 1 for a token that may be read, and 0 for one that may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.rows import BatchRow, GivenBatches, Ints
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import from_page
from distillab.records import Finding

_MOST = 0.9


def read_kinds(given: GivenBatches, facts: TokenFacts) -> tuple[GivenBatches, list[Finding]]:
    """The batches with masks that the other checks can read, and what is wrong with the masks as they were given."""
    found: list[Finding] = []
    tables = [row for row in given.rows if row.table is not None]
    if tables:
        given, found = _with_tables(given, tables, facts)
    lines = [row for row in given.rows if row.table is None and row.added]
    added = [row.attention for row in lines if row.attention is not None]
    if added:
        hidden, total = sum(int((mask == 0).sum()) for mask in added), sum(map(len, added))
        counts = f"{total - hidden:,} times 0, {hidden:,} times -9999 or less"
        fact = f"{len(added):,} rows with one number per token; {counts}"
        found.append(from_page("attention-mask-kind", fact, case="additive"))
    given, inverted = _without_inverted(given, facts)
    if inverted is not None and not any(finding.id == "attention-mask-inverted" for finding in found):
        found.append(inverted)
    return given, found


def _scored(row: BatchRow, facts: TokenFacts) -> Ints:
    """Places of the labels of a row that are scored, and have a place before them."""
    places = facts.scored(row.labels)
    return places[places >= 1]


def _with_tables(
    given: GivenBatches, tables: Sequence[BatchRow], facts: TokenFacts
) -> tuple[GivenBatches, list[Finding]]:
    """Tables become a line a row: what the scored tokens read, and behind them what reads itself."""
    found = []
    factors = [row for row in tables if row.factors]
    hidden = ahead = scored = 0
    for row in tables:
        places = _scored(row, facts)
        table = _table(row)
        scored += len(places)
        hidden += int((~table[places, places]).sum())
        ahead += int(table[places - 1, places].sum())
    inverted = scored > 0 and hidden >= _MOST * scored and ahead >= _MOST * scored
    if inverted:
        tables = [replace(row, table=~row.table) for row in tables if row.table is not None]
        fact = f"{hidden:,} of {scored:,} scored tokens are hidden from themselves, and shown to the token before them"
        found.append(from_page("attention-mask-inverted", fact, case="table"))
    if factors:
        fact = f"{len(factors):,} rows with a float mask, one entry per query and key, that holds positive numbers"
        found.append(from_page("attention-mask-kind", fact, case="float table"))
    elif not inverted and scored and ahead >= 0.5 * scored:
        found.append(
            from_page(
                "attention-mask-looks-ahead",
                f"{ahead:,} of {scored:,} scored tokens can be attended to by the position that has to predict them",
                f"{len(tables):,} rows have an attention mask with one entry per query and key",
            )
        )
    lines = {(row.batch, row.place): _line(row, facts) for row in tables}
    rows = tuple(
        replace(row, attention=lines[row.batch, row.place]) if row.table is not None else row for row in given.rows
    )
    apart = any(_apart(row, lines[row.batch, row.place]) for row in tables)
    return replace(given, rows=rows, boundaries=given.boundaries or ("attention_mask" if apart else None)), found


def _line(row: BatchRow, facts: TokenFacts) -> Ints:
    table, places = _table(row), _scored(row, facts)
    own = np.diagonal(table)
    if not len(places):
        return own.astype(np.int64)
    queries = np.union1d(places, places - 1)
    behind = np.arange(len(row.ids)) > places[-1]
    return (table[queries].any(axis=0) | (own & behind)).astype(np.int64)


def _table(row: BatchRow) -> NDArray[np.bool_]:
    return np.zeros((len(row.ids), len(row.ids)), dtype=np.bool_) if row.table is None else row.table


def _apart(row: BatchRow, line: Ints) -> bool:
    """Whether some token of the text may not read another one before it: samples are kept apart."""
    shown = np.flatnonzero(line)
    text = _table(row)[np.ix_(shown, shown)]
    return bool((~text & np.tri(len(shown), dtype=np.bool_)).any())


def _without_inverted(given: GivenBatches, facts: TokenFacts) -> tuple[GivenBatches, Finding | None]:
    """Masks that hide the text and show the padding do not show where the text lies, and are left aside."""
    counts = _inverted([(row.ids, row.attention) for row in given.rows if row.attention is not None], facts)
    if counts is None:
        return given, None
    hidden, shown = counts
    fact = f"{hidden:,} tokens of text have 0, {shown:,} tokens of padding have 1"
    without = tuple(replace(row, attention=None) for row in given.rows)
    return replace(given, rows=without), from_page("attention-mask-inverted", fact, case="padding")


def _inverted(rows: Sequence[tuple[Ints, Ints]], facts: TokenFacts) -> tuple[int, int] | None:
    """(tokens hidden, padding shown) where the masks show the padding and hide the text; None where they do not."""
    hidden = shown = 0
    for ids, mask in rows:
        if not len(ids) or (mask != 0).all():
            continue
        if (mask == 0).all():
            hidden += len(mask)
            continue
        ends = {int(ids[0]), int(ids[-1])}
        padding = ends & ({facts.pad, facts.unk} | facts.ends)
        attended = set(np.unique(ids[mask != 0]).tolist())
        if len(attended) != 1 or not attended <= padding or int((mask == 0).sum()) < 2:
            return None
        hidden += int((mask == 0).sum())
        shown += int((mask != 0).sum())
    everything = len(rows) > 0 and all(not mask.any() for _, mask in rows) and hidden >= 2
    return (hidden, shown) if everything or (shown >= 2 and hidden > shown / 4) else None
