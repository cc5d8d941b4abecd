"""Are the ids of this tokenizer?"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from distillab.data.special import AddedTokens
from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.rows import BatchRow, Ints
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.records import Finding

_MOST_TOKENS = 4_000
_FEWEST_TOKENS = 64
_MUCH_UNKNOWN = 0.02
# measured: a tokenizer's own ids 1.00; those of another one, with natural text, at most 0.95 on the mean of 32 texts
_OWN_CUTS = 0.97
# Ids of a vocabulary of many languages, read with another one of that kind: 0.968 to 0.977, and letters of another
# script every third token. Text changes its script at a quotation.
_OWN_CUTS_WHERE_SCRIPTS_MIX = 0.99
_SCRIPT_CHANGES = 0.05
_SCRIPTS = 2
# written together, so that a change between them is none
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "FULLWIDTH": "LATIN", "MATHEMATICAL": "LATIN"}


@check("ids")
def check_ids(rows: Sequence[BatchRow], placed: Sequence[PlacedRow], facts: TokenFacts) -> Checked:
    """Compare input ids and labels with what the tokenizer knows.

    Args:
        placed: the rows whose labels belong to them.
    """
    tokens = sum(len(row.ids) for row in rows)
    known, vocabulary = len(facts.meanings), facts.told.vocabulary
    models = "" if vocabulary is None else f" and {vocabulary:,} of the model"
    yield Scope(f"{len(rows):,} rows, {tokens:,} ids, against {known:,} of the tokenizer{models}")
    outside = _outside(rows, facts)
    yield outside
    yield _unknown(rows, facts)
    yield None if outside else _other_cuts(placed, facts)


def _outside(rows: Sequence[BatchRow], facts: TokenFacts) -> Finding | None:
    vocabulary = facts.told.vocabulary
    bad: dict[str, Ints] = {}
    for name, every in (
        ("input_ids", [row.ids for row in rows]),
        ("labels", [row.labels[facts.scored(row.labels)] for row in rows]),
    ):
        ids = np.concatenate(every) if every else np.array([], dtype=np.int64)
        limit = min(len(facts.meanings), vocabulary or len(facts.meanings))
        bad[name] = ids[(ids < 0) | (ids >= limit)]
    if not any(len(ids) for ids in bad.values()):
        return None
    evidence = [
        f"{len(ids):,} {name} are no tokens, e.g. {', '.join(map(str, np.unique(ids)[:6].tolist()))}"
        for name, ids in bad.items()
        if len(ids)
    ]
    evidence.append(f"the tokenizer has the ids 0 to {len(facts.meanings) - 1:,}")
    if vocabulary is not None:
        evidence.append(f"the model has the ids 0 to {vocabulary - 1:,}")
    labels = set(bad["labels"].tolist())
    other_ignore = not len(bad["input_ids"]) and len(labels) == 1 and next(iter(labels)) < 0
    row = next(
        row for row in rows if np.isin(row.ids, bad["input_ids"]).any() or np.isin(row.labels, list(labels)).any()
    )
    return from_page(
        "ids-outside-vocabulary",
        *evidence,
        case="another ignore index" if other_ignore else "other ids",
        example=(
            f"{row.origin}: input_ids {row.ids[:8].tolist()} … {row.ids[-4:].tolist()}, "
            f"labels {row.labels[:8].tolist()} … {row.labels[-4:].tolist()}",
        ),
        words={"label": min(labels, default="")},
    )


def unknown_inside(rows: Sequence[BatchRow], facts: TokenFacts) -> tuple[int, int]:
    """(unknown tokens, tokens) of the text; runs at the edges of rows, which are padding, are in neither."""
    roles = {facts.bos, facts.pad} | facts.ends
    if facts.unk is None or facts.unk in roles:
        return 0, 0
    count = total = 0
    for row in rows:
        ids = _inner(row.ids, facts)
        count += int((ids == facts.unk).sum())
        total += len(ids)
    return count, total


def much_unknown(rows: Sequence[BatchRow], facts: TokenFacts) -> bool:
    """Whether the unknown token is so frequent in the text that it is no padding."""
    count, total = unknown_inside(rows, facts)
    return count >= max(2, _MUCH_UNKNOWN * total)


def _unknown(rows: Sequence[BatchRow], facts: TokenFacts) -> Finding | None:
    if facts.unk is None or not much_unknown(rows, facts):
        return None
    count, total = unknown_inside(rows, facts)
    hit = next(row for row in rows if facts.unk in _inner(row.ids, facts))
    mostly = count >= 0.5 * total and total >= _FEWEST_TOKENS
    return from_page(
        "unknown-tokens",
        f"{count:,} of {total:,} tokens ({count / total:.1%}) are {facts.name(facts.unk)}",
        case="in the batch",
        severity="error" if mostly else "warning",
        example=(f"{hit.origin}: {facts.text(_inner(hit.ids, facts)[:40])[:200]!r}",),
    )


def _inner(ids: Ints, facts: TokenFacts) -> Ints:
    """The ids without the unknown, end and padding tokens at the edges."""
    inside = np.flatnonzero(~np.isin(ids, [token for token in (facts.unk, *facts.padding) if token is not None]))
    return ids[int(inside[0]) : int(inside[-1]) + 1] if len(inside) else ids[:0]


def _other_cuts(placed: Sequence[PlacedRow], facts: TokenFacts) -> Finding | None:
    added = AddedTokens(facts.tokenizer)
    kept = total = changes = 0
    scripts: set[str] = set()
    worst: tuple[float, Ints] | None = None
    for stretch in _stretches(placed, facts):
        if added.special_strings(facts.text(stretch)):  # spelled by the data, it would come back as one token
            continue
        same = _kept_cuts(stretch, facts)
        kept, total = kept + same, total + len(stretch)
        order = _scripts(facts.text(stretch))
        changes += sum(before != after for before, after in pairwise(order))
        scripts.update(order)
        if worst is None or same / len(stretch) < worst[0]:
            worst = (same / len(stretch), stretch)
        if total >= _MOST_TOKENS:
            break
    if worst is None or total < _FEWEST_TOKENS:
        return None
    mixed = len(scripts) >= _SCRIPTS and changes >= _SCRIPT_CHANGES * total
    if kept / total >= (_OWN_CUTS_WHERE_SCRIPTS_MIX if mixed else _OWN_CUTS):
        return None
    return from_page(
        "ids-of-another-tokenizer",
        f"the ids, decoded and encoded again: {kept:,} of {total:,} token borders came back ({kept / total:.1%})",
        "with a tokenizer's own ids, nearly all come back",
        f"letters of {len(scripts)} scripts, which change {changes:,} times in these tokens" if mixed else None,
        example=(f"the decoded ids: {facts.text(worst[1][:48])!r}",),
    )


def _scripts(text: str) -> list[str]:
    """The script of every letter, in order."""
    found = []
    for letter in text:
        if letter.isalpha():
            script = unicodedata.name(letter, "").partition(" ")[0]
            found.append(_ONE_SCRIPT.get(script, script))
    return found


def _stretches(placed: Sequence[PlacedRow], facts: TokenFacts) -> Iterator[Ints]:
    """Runs of ordinary tokens, all scored or all not: prompt and answer may have been encoded apart."""
    for row in placed:
        kinds = [
            (facts.meaning(int(token)).kind in ("text", "byte"), bool(scored))
            for token, scored in zip(row.ids[row.start : row.stop], row.scored[row.start : row.stop], strict=True)
        ]
        begin = 0
        for place in range(1, len(kinds) + 1):
            if place == len(kinds) or kinds[place] != kinds[begin]:
                if kinds[begin][0] and place - begin >= 4:
                    yield row.ids[row.start + begin : row.start + place]
                begin = place


def _kept_cuts(ids: Ints, facts: TokenFacts) -> int:
    """How many of the token ends come back when the text is encoded anew.

    Counted from the end of the text, since a tokenizer may put a space before it.
    """
    lengths = [len(data) for data in facts.data(ids)]
    borders = sum(lengths) - np.cumsum(lengths)
    text = facts.text(ids)
    best = 0
    for candidate in {text, text.removeprefix(" ")}:
        if not candidate:
            continue
        again = np.array(facts.tokenizer.encode(candidate, add_special_tokens=False, verbose=False), dtype=np.int64)
        sizes = [len(data) for data in facts.data(again)]
        best = max(best, int(np.isin(borders, sum(sizes) - np.cumsum(sizes)).sum()))
    return best
