"""Check how rows begin (BOS missing or doubled), and whether rows are repeated, or held out and trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.markers import ReadRow
from distillab.doctor.batch.packing import answer_begins
from distillab.doctor.batch.rows import Ints
from distillab.doctor.batch.show import row_example, token_names
from distillab.doctor.batch.tokens import TokenFacts, text_range
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding

_LEAK = 0.5
_FEWEST_TOKENS = 2


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
