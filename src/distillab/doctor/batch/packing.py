"""Check rows that hold several samples: whether a sample can attend to the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.markers import ReadRow
from distillab.doctor.batch.rows import GivenBatches, Ints
from distillab.doctor.batch.show import token_names
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding


@check("packing")
def check_packing(rows: Sequence[ReadRow], facts: TokenFacts, given: GivenBatches) -> Checked:
    """Look for samples behind the first one of a row, by begin and end tokens and by position ids."""
    if not rows:
        yield Scope("0 rows")
        raise Skipped("no row has labels that are its own tokens")
    starts = [(row, _starts(row, facts)) for row in rows]
    packed = [(row, at) for row, at in starts if len(at)]
    restarts = [(row.placed, _restarts(row.placed)) for row in rows]
    restarted = sum(len(at) > 0 for _, at in restarts)
    yield Scope(
        f"{len(rows):,} rows, {len(packed):,} with BOS or EOS inside, {restarted:,} with position ids that restart"
    )
    marked = given.boundaries is not None or restarted or any(_numbered(row.placed) for row in rows)
    yield None if marked else _without_boundaries(packed, rows, facts)
    yield _start_scored(restarts, facts)


def _starts(row: ReadRow, facts: TokenFacts) -> Ints:
    """Places at which a further sample seems to begin.

    With a begin token of its own, that is the sign; otherwise a token behind an end token. In a conversation both
    stand between turns, and nothing is reported.
    """
    placed = row.placed
    text = placed.ids[placed.start : placed.stop]
    begins = facts.bos is not None and facts.bos not in facts.ends and facts.bos in facts.begins
    if row.family is not None and row.family.converses and (not begins or b"[INST]" in row.family.markers):
        return _systems(row)  # Llama 2 puts the begin token before every turn
    if begins:
        at = np.flatnonzero(text[1:] == facts.bos) + 1
        at = at[text[at - 1] != facts.bos]  # a doubled begin token is another matter, and so is one before an answer
        at = at[~np.isin(at + placed.start, answer_begins(placed, facts))]
    else:
        ended = np.isin(text[:-1], list(facts.ends))
        at = np.flatnonzero(ended & ~np.isin(text[1:], list(facts.ends))) + 1
        # in the families that have none, an end token before the first text begins it
        at = at[at > 1]
    return at + placed.start


def _systems(row: ReadRow) -> Ints:
    """Where a further conversation begins: with a system turn, of which a conversation has one."""
    turns = [tokens for marker, tokens in row.asking_turns if marker.endswith("system")]
    return np.array([int(tokens[0]) for tokens in turns[1:] if len(tokens)], dtype=np.int64)


def samples_of(row: PlacedRow) -> list[PlacedRow]:
    """The samples of a row, by position ids that begin again or a mask that numbers them; else the row itself."""
    at = _restarts(row)
    if not len(at) and row.attention is not None and _numbered(row):
        at = np.flatnonzero(np.diff(row.attention) != 0) + 1
    borders = [0, *at.tolist(), len(row.ids)]
    if len(borders) == 2:
        return [row]
    return [_part(row, begin, end) for begin, end in pairwise(borders)]


def _part(row: PlacedRow, begin: int, end: int) -> PlacedRow:
    cut = slice(begin, end)
    ids, labels = row.row.ids[cut], row.row.labels[cut]
    given = replace(row.row, ids=ids, labels=labels, attention=None, positions=None, fills=False, table=None)
    start, stop = (min(max(place - begin, 0), end - begin) for place in (row.start, row.stop))
    return PlacedRow(given, row.ids[cut], row.scored[cut], row.targets[cut], None, start, stop)


def _restarts(placed: PlacedRow) -> Ints:
    positions = placed.row.positions
    if positions is None:
        return np.array([], dtype=np.int64)
    stop = min(placed.stop, len(positions))
    text = positions[placed.read_from : stop]
    if len(text) < 2 or not text.any():
        return np.array([], dtype=np.int64)
    return np.flatnonzero(text[1:] == 0) + 1 + placed.read_from


def _numbered(placed: PlacedRow) -> bool:
    """Whether the attention mask numbers the samples: 1, 1, 2, 2, 2."""
    return placed.attention is not None and len(np.unique(placed.attention[placed.attention > 0])) > 1


def _without_boundaries(
    packed: Sequence[tuple[ReadRow, Ints]], rows: Sequence[ReadRow], facts: TokenFacts
) -> Finding | None:
    if not packed:
        return None
    text = all(row.placed.whole for row in rows)
    row, at = packed[0]
    first = int(at[0])
    around = token_names(row.placed.ids[max(0, first - 4) : first + 4], facts)
    return from_page(
        "packed-without-boundaries",
        f"{len(packed):,} of {len(rows):,} rows; {sum(len(at) for _, at in packed):,} samples after the first of "
        "their row",
        "no position ids that restart, no numbered attention mask, no sequence lengths",
        severity="note" if text else "warning",
        example=(f"{row.placed.row.origin}, position {first}: {'·'.join(around)}",),
    )


def _start_scored(restarts: Sequence[tuple[PlacedRow, Ints]], facts: TokenFacts) -> Finding | None:
    hit = [(placed, at[placed.scored[at]]) for placed, at in restarts if len(at)]
    hit = [(placed, at) for placed, at in hit if len(at)]
    if not hit:
        return None
    placed, at = hit[0]
    first = int(at[0])
    around = token_names(placed.ids[max(0, first - 4) : first + 4], facts)
    return from_page(
        "sample-start-scored",
        f"{sum(len(at) for _, at in hit):,} samples in {len(hit):,} rows",
        example=(f"{placed.row.origin}, position {first}: {'·'.join(around)}",),
    )


def answer_begins(row: PlacedRow, facts: TokenFacts) -> Ints:
    """Places of begin tokens between a prompt, which is not scored, and its answer, which is.

    A sample that follows another one in its row begins with its prompt, behind the end of an answer; here what stands
    before is not scored and does not end.

    Args:
        row: with its labels where they are meant.
    Returns:
        positions in the row, ascending; none for tokenizers that put no begin token before a text.
    """
    if facts.bos is None or facts.bos in facts.ends or facts.bos not in facts.begins:
        return np.array([], dtype=np.int64)
    found = []
    for at in (np.flatnonzero(row.ids[row.start + 1 : row.stop] == facts.bos) + row.start + 1).tolist():
        scored = row.scored[at] or (at + 1 < row.stop and row.scored[at + 1])
        if not scored or row.scored[at - 1] or int(row.ids[at - 1]) == facts.bos:
            continue
        if not _ended(row, at, facts):
            found.append(at)
    return np.array(found, dtype=np.int64)


def _ended(row: PlacedRow, at: int, facts: TokenFacts) -> bool:
    """Whether an end token stands before a place, blanks aside."""
    for before in row.ids[row.start : at][::-1].tolist():
        if before in facts.ends:
            return True
        if facts.meaning(before).data.strip():
            return False
    return False
