"""What the model may read: which kind of mask is it, padding that is attended, tokens hidden, positions wrong.

Each kind of mask becomes 1 for a token that may be read, and 0 for one that may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.rows import BatchRow, GivenBatches, Ints
from distillab.doctor.batch.show import row_example
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.records import Finding

# further on, a row is a later part of a text
_MOST_LATE = 8
# rows with their position ids
_Numbered = Sequence[tuple[PlacedRow, Ints]]
_MOST = 0.9


@check("attention and positions")
def check_attention(
    rows: Sequence[PlacedRow], facts: TokenFacts, given: GivenBatches, of_masks: Sequence[Finding]
) -> Checked:
    """Compare attention mask and position ids with where the text lies.

    Args:
        of_masks: what was found when the masks were read.
    """
    masks = sum(row.row.attention is not None for row in rows)
    numbered = [(row, positions) for row in rows if (positions := row.row.positions) is not None]
    counts = f"{len(rows):,} rows, {masks:,} with an attention mask, {len(numbered):,} with position ids"
    yield Scope("; ".join((counts, *given.notes)))
    yield from of_masks
    yield _padding_attended(rows, facts)
    yield _hidden(rows, facts)
    yield _padding_side(rows, facts)
    yield _positions(numbered, len(rows), facts) or _run_through(numbered) or _begin_late(numbered, len(rows), facts)


def _padding_attended(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    left = [row for row in rows if row.start >= 1 and (row.attention is None or bool(row.attention[: row.start].any()))]
    given = [row for row in left if row.attention is not None]
    right = [
        row for row in rows if row.attention is not None and row.stop > 0 and bool(row.attention[row.stop :].any())
    ]
    if not left and not right:
        return None
    hit = given or left or right
    row = hit[0]
    padding = row.start if left else len(row.ids) - row.stop
    # An end token before a text may stand for its beginning, and a like number of tokens before every text for a prompt
    # that is learned; padding is of other length in every row.
    runs = {row.start for row in given if int(row.ids[0]) not in (facts.bos, facts.eos)}
    certain = len(runs) >= 2 and max(runs) >= 2 and len(given) >= 0.5 * len(rows)
    what = f"have attention mask 1 at {padding:,} padding tokens after the text"
    if left:
        there = "have an attention mask of 1 there" if given else "have no attention mask"
        what = f"begin with padding and {there}; {padding:,} in the first of them"
    return from_page(
        "padding-attended",
        f"{len(hit):,} of {len(rows):,} rows {what}",
        case="left" if left else "right",
        severity="error" if left and certain else "warning" if left else "note",
        example=row_example(row, facts),
    )


def _hidden(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    hit: list[tuple[PlacedRow, Ints]] = []
    for row in rows:
        if row.attention is None or row.stop <= row.start:
            continue
        holes = np.flatnonzero(row.attention[row.start : row.stop] == 0) + row.start
        if len(holes):
            hit.append((row, holes))
    if not hit:
        return None
    count = sum(len(holes) for _, holes in hit)
    tokens = {int(token) for row, holes in hit for token in row.ids[holes]}
    evidence = [f"{count:,} tokens that are not padding have attention mask 0, in {len(hit):,} of {len(rows):,} rows"]
    if all(_is_unscored(row, holes) for row, holes in hit):
        evidence.append("they are exactly the tokens that are not scored: the mask was made from the labels")
    elif len(tokens) == 1:
        evidence.append(f"they are all the token {facts.name(next(iter(tokens)))}: the mask was made by id")
    row, holes = hit[0]
    return from_page(
        "tokens-hidden",
        *evidence,
        example=(
            f"{row.row.origin}, position {int(holes[0])}: {facts.text(row.ids[max(0, holes[0] - 8) : holes[0] + 8])!r}",
        ),
    )


def _is_unscored(row: PlacedRow, holes: Ints) -> bool:
    """Whether what is hidden is all that is not scored; one position more or less where labels arrive shifted."""
    unscored = np.flatnonzero(~row.scored[row.start : row.stop]) + row.start
    return len(holes) >= 4 and len(np.setxor1d(holes, unscored)) <= 2


def _padding_side(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    if not facts.told.absolute_positions:
        return None
    hit = [
        row
        for row in rows
        if row.start >= 1
        and row.stop > row.start
        and (row.row.positions is None or int(row.row.positions[row.start]) == row.start)
    ]
    if not hit:
        return None
    given = [row for row in hit if row.row.positions is not None]
    row = max(hit, key=lambda row: row.start)
    return from_page(
        "padding-side",
        f"{len(hit):,} of {len(rows):,} rows have padding before the text, up to {row.start:,} tokens",
        f"position_ids: {'counted from the first padding token' if given else 'not in the batch'}",
        severity="error" if given else "warning",
        example=row_example(row, facts),
    )


def _restarts_elsewhere(row: PlacedRow, positions: Ints, facts: TokenFacts) -> Ints:
    """Where positions begin again inside of samples: rows begin with the begin token, and these places do not."""
    ids = row.ids[row.read_from : row.read_from + len(positions)]
    if facts.bos is None or facts.bos in facts.ends or int(ids[0]) != facts.bos:
        return np.array([], dtype=np.int64)
    again = np.flatnonzero(positions[1:] == 0) + 1
    inside = again[ids[again] != facts.bos]
    passed = (ids[1:] == facts.bos) & (positions[1:] != 0)
    return inside - 1 if len(inside) >= max(1, 0.5 * len(again)) and passed.any() else inside[:0]


def _positions(numbered: _Numbered, total: int, facts: TokenFacts) -> Finding | None:
    hit: list[tuple[PlacedRow, Ints, Ints]] = []
    for row, positions in numbered:
        text = positions[row.read_from : min(row.stop, len(row.row.ids))]
        if len(text) < 2:
            continue
        steps = np.diff(text)
        wrong = np.flatnonzero((steps != 1) & (text[1:] != 0))
        still = bool((steps == 0).all())
        if not len(wrong) and not still:
            wrong = _restarts_elsewhere(row, text, facts)
        if len(wrong) or still:
            hit.append((row, positions, wrong if len(wrong) else np.array([0])))
    if not hit:
        return None
    row, positions, wrong = hit[0]
    begin = max(0, row.read_from + int(wrong[0]) - 2)
    constant = all(len(np.unique(positions)) == 1 for _, positions, _ in hit)
    return from_page(
        "positions-wrong",
        f"{len(hit):,} of {total:,} rows",
        "all position ids are equal" if constant else "they neither increase by one nor restart at 0 at a sample",
        case="miscounted",
        severity="error" if constant else "warning",
        example=(f"{row.row.origin}, from position {begin} on: {positions[begin : begin + 8].tolist()}",),
    )


def _run_through(numbered: _Numbered) -> Finding | None:
    """The positions of a row go on where those of the row before it ended: the whole batch was counted."""
    rows = [(row.row, positions) for row, positions in numbered if len(positions)]
    if len({row.place for row, _ in rows}) < 3 or any(int(at[0]) != row.place * len(row.ids) for row, at in rows):
        return None
    row, positions = next((row, positions) for row, positions in rows if row.place == 1)
    return from_page(
        "positions-wrong",
        f"{len(rows):,} rows; each starts at its index in the batch times the width of the batch",
        case="across rows",
        example=(f"{row.origin}, from its beginning on: {positions[:8].tolist()}",),
    )


def _begin_late(numbered: _Numbered, total: int, facts: TokenFacts) -> Finding | None:
    """Every row counts from one number above 0: the mask was summed, without the - 1. Later parts of texts vary."""
    texts = [(row, positions[row.read_from :]) for row, positions in numbered if row.stop - row.read_from >= 2]
    first = {int(positions[0]) for _, positions in texts}
    # a single row may go on behind one that came before it, and one token of padding before a row is padding-side's
    if not facts.told.absolute_positions or len(texts) < 2 or len(first) > 1 or not 0 < min(first) <= _MOST_LATE:
        return None
    if all(row.start == min(first) for row, _ in texts):
        return None
    row, positions = texts[0]
    return from_page(
        "positions-wrong",
        f"{len(texts):,} of {total:,} rows; every text begins at position {min(first)}",
        case="late",
        example=(f"{row.row.origin}, from its first token on: {positions[:8].tolist()}",),
    )


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
