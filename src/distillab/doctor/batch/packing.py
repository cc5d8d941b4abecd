"""Check samples: can one attend to the one before it in its row, how do they begin, and are they repeated?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.markers import ReadRow
from distillab.doctor.batch.rows import GivenBatches, Ints
from distillab.doctor.batch.show import row_example, token_names
from distillab.doctor.batch.tokens import TokenFacts, text_range
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding

_LEAK = 0.5
_FEWEST_TOKENS = 2


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


@check("rows")
def check_sequences(rows: Sequence[ReadRow], judged: Sequence[PlacedRow], facts: TokenFacts) -> Checked:
    """Look for begin tokens that stand twice or are missing, and for rows that are equal.

    Args:
        judged: those of the rows whose labels belong to them, with the labels where they are meant.
    """
    placed = [row.placed for row in rows]
    yield Scope(f"{len(rows):,} rows, {sum(row.stop - row.start for row in placed):,} tokens of text")
    yield _doubled(placed, facts) or _before_answers(judged, facts)
    yield _missing(rows, facts)
    yield _repeated(placed, facts)


def _doubled(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    if facts.bos is None:
        return None
    hit: list[tuple[PlacedRow, int]] = []
    for row in rows:
        text = row.ids[row.start : row.stop]
        if len(np.unique(text)) < 2:
            continue
        if facts.bos in facts.ends:
            # of a token that ends and begins texts two may stand between texts, but not before the first
            twice = [0] if len(text) > 1 and text[0] == text[1] == facts.bos else []
        else:
            twice = np.flatnonzero((text[:-1] == facts.bos) & (text[1:] == facts.bos)).tolist()
        if twice:
            hit.append((row, row.start + twice[0]))
    if not hit:
        return None
    row, at = hit[0]
    return from_page(
        "double-bos",
        f"{len(hit):,} of {len(rows):,} rows contain {facts.name(facts.bos)} twice in a row",
        case="twice",
        example=(f"{row.row.origin}: {'·'.join(token_names(row.ids[at : at + 8], facts))}",),
    )


def _before_answers(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    hit = [(row, at) for row, at in ((row, answer_begins(row, facts)) for row in rows) if len(at)]
    if not hit or facts.bos is None:
        return None
    row, at = hit[0]
    around = row.ids[max(row.start, int(at[0]) - 4) : int(at[0]) + 5]
    return from_page(
        "double-bos",
        f"{len(hit):,} of {len(rows):,} rows contain {facts.name(facts.bos)} where the scored part begins",
        case="inside",
        example=(f"{row.row.origin}, position {int(at[0])}: {'·'.join(token_names(around, facts))}",),
    )


def _missing(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    texts = [row.placed for row in rows if row.placed.stop - row.placed.start >= 2]
    cut = _beginnings_cut(texts, facts)
    if cut is not None:
        return cut
    # chunks of plain text begin anywhere
    if not facts.begins or not texts or all(row.full for row in texts):
        return None
    if any(int(row.ids[row.start]) == facts.begins[0] for row in texts):
        return None
    row = texts[0]
    return from_page(
        "bos-missing",
        f"0 of {len(texts):,} rows begin with {facts.name(facts.begins[0])}",
        case="all",
        example=(f"{row.row.origin}: {'·'.join(token_names(row.ids[row.start : row.start + 8], facts))}",),
    )


def _beginnings_cut(texts: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    """Shorter rows have the begin token, and the longest have not: their beginning was cut off."""
    if not facts.begins:
        return None
    bare = [row for row in texts if int(row.ids[row.start]) != facts.begins[0]]
    begun = len(texts) - len(bare)
    if not begun or len(bare) < 2 or not all(row.full for row in bare):
        return None
    if all(row.full for row in texts):
        return None  # pieces of a long text begin anywhere
    row = bare[0]
    return from_page(
        "bos-missing",
        f"{begun:,} of {len(texts):,} rows begin with {facts.name(facts.begins[0])}; the other {len(bare):,} fill "
        f"their batch ({row.stop - row.start:,} tokens) and begin in the middle of a text",
        case="longest rows",
        example=(f"{row.row.origin}: {'·'.join(token_names(row.ids[row.start : row.start + 8], facts))}",),
    )


def _repeated(rows: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    texts = [row for row in rows if row.stop - row.start >= 2]
    keys = [(row.ids[row.start : row.stop].tobytes(), row.scored[row.start : row.stop].tobytes()) for row in texts]
    counts = Counter(keys)
    extra = len(keys) - len(counts)
    if not extra:
        return None
    key, most = counts.most_common(1)[0]
    row = texts[keys.index(key)]
    places = [other.row.origin for other, own in zip(texts, keys, strict=True) if own == key]
    return from_page(
        "duplicated-rows",
        f"{extra:,} of {len(texts):,} rows repeat another one ({extra / len(texts):.1%})",
        f"the most frequent one occurs {most} times: {'; '.join(places[:4])}",
        case="batch",
        example=row_example(row, facts),
    )


@check("train and held-out rows")
def check_tokens_overlap(
    train: Iterable[tuple[Ints, Ints | None]], held_out: Iterable[tuple[Ints, Ints | None]], facts: TokenFacts
) -> Checked:
    """Compare rows by their tokens without padding; linear in both.

    Args:
        train, held_out: (ids, attention mask or None) of every row.
    """
    digests = [_digest(ids, attention, facts) for ids, attention in train]
    known = {digest: place for place, digest in reversed(list(enumerate(digests))) if digest is not None}
    rows = hit = judged = 0
    first: tuple[int, int, str] | None = None
    for place, (ids, attention) in enumerate(held_out):
        rows += 1
        digest = _digest(ids, attention, facts)
        judged += digest is not None
        if digest is not None and digest in known:
            hit += 1
            first = first or (place, known[digest], facts.text(ids[slice(*text_range(ids, attention, facts))][:60]))
    yield Scope(f"{len(digests):,} training rows, {rows:,} held-out rows")
    if not judged:
        raise Skipped("no held-out row has two tokens")
    if first is None:
        return
    certain = hit >= _LEAK * judged
    held, own, text = first
    yield from_page(
        "train-held-out-overlap",
        f"{hit:,} of {judged:,} ({hit / judged:.1%}) held-out rows have the tokens of a training row",
        case="all" if certain else "some",
        example=(f"held-out row {held}, training row {own}: {text!r}",),
    )


def _digest(ids: Ints, attention: Ints | None, facts: TokenFacts) -> bytes | None:
    start, stop = text_range(ids, attention, facts)
    if stop - start < _FEWEST_TOKENS:
        return None
    return hashlib.blake2b(ids[start:stop].tobytes(), digest_size=16).digest()
