"""Is the text in the template of this tokenizer, and are its markers tokens?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.markers import FAMILIES, Family, ReadRow
from distillab.doctor.batch.show import token_names
from distillab.doctor.batch.tokens import END_TEXTS, TokenFacts
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.records import Finding

_MOST_ROWS, _SOME_ROWS = 0.8, 0.2


@check("chat template")
def check_template(rows: Sequence[ReadRow], facts: TokenFacts) -> Checked:
    """Look at the markers of the known families of templates."""
    own = facts.template.encode() or None
    yield Scope(f"{len(rows):,} rows; the tokenizer has {'no' if own is None else 'a'} chat template")
    yield _markers(rows, facts, own) or _ends_in_pieces(rows, facts)


def _markers(rows: Sequence[ReadRow], facts: TokenFacts, own: bytes | None) -> Finding | None:
    used = [row for row in rows if row.family is not None and row.family.markers]
    # a row or two may be about templates
    if not rows or len(used) < _MOST_ROWS * len(rows):
        return None
    if own is not None:
        # one of several sources was rendered for another model
        foreign = [row for row in used if row.family and not any(marker in own for marker in row.family.markers)]
        if _SOME_ROWS * len(rows) <= len(foreign) < _MOST_ROWS * len(rows) and foreign[0].family is not None:
            return _foreign(foreign, foreign[0].family, own)
    family = max((f for f in FAMILIES if f.markers), key=lambda f: sum(row.family is f for row in used))
    used = [row for row in used if row.family is family]
    single = {meaning.data for meaning in facts.meanings if meaning.data in family.markers}
    pieces, whole = _cut(used, family)
    if single and pieces and not whole:
        return _in_pieces(used, family, facts, pieces, known=True)
    if own is not None and not any(marker in own for marker in family.markers):
        return _foreign(used, family, own)
    # a template that is given to a tokenizer after its pretraining adds no tokens by itself
    if not single and not whole and _is_control(family):
        return _in_pieces(used, family, facts, pieces, known=False)
    return None


def _cut(rows: Sequence[ReadRow], family: Family) -> tuple[int, int]:
    """How many markers stand in several tokens, and how many are one token."""
    pieces = whole = 0
    for row in rows:
        for marker in family.markers:
            at = row.text.find(marker)
            while at >= 0:
                tokens = row.tokens_of(at, at + len(marker))
                pieces, whole = pieces + (len(tokens) > 1), whole + (len(tokens) == 1)
                at = row.text.find(marker, at + len(marker))
    return pieces, whole


def _is_control(family: Family) -> bool:
    """Whether the markers are meant as tokens of their own; those of Llama 2, Mistral and Zephyr are plain text."""
    return family.name in ("ChatML", "Llama 3", "Gemma", "DeepSeek")


def _in_pieces(rows: Sequence[ReadRow], family: Family, facts: TokenFacts, pieces: int, *, known: bool) -> Finding:
    row = rows[0]
    match = family.prompt.search(row.text)
    begin, end = match.span() if match else (0, 1)
    tokens = row.placed.ids[row.tokens_of(begin, end)]
    return from_page(
        "markers-in-pieces",
        f"{len(rows):,} rows in the template {family.name}; {pieces:,} markers in several tokens, 0 as one token",
        "the tokenizer has a token for them" if known else "the tokenizer has no token for them",
        case="known" if known else "unknown",
        severity="error" if known and len(rows) >= 2 else "warning",
        example=(f"{row.placed.row.origin}: {'·'.join(token_names(tokens, facts))}",),
    )


def _spelled_end(row: ReadRow, facts: TokenFacts) -> tuple[bytes, NDArray[np.int64]] | None:
    """The end marker by which a row ends, and its tokens, where these are several; true end tokens behind it aside."""
    ids, stop = row.placed.ids, row.placed.stop
    while stop > row.placed.start and int(ids[stop - 1]) in facts.ends:
        stop -= 1
    kept = stop - row.placed.start
    text = row.text[: int(row.ends[kept - 1])].rstrip() if kept else b""
    for marker in END_TEXTS:
        if text.endswith(marker):
            tokens = row.tokens_of(len(text) - len(marker), len(text))
            return (marker, tokens) if len(tokens) > 1 else None
    return None


def _ends_in_pieces(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    spelled = [(row, end) for row in rows for end in [_spelled_end(row, facts)] if end is not None]
    # an answer or two may be about such markers
    if len(spelled) < max(2, _MOST_ROWS * len(rows)):
        return None
    row, (marker, tokens) = spelled[0]
    name = marker.decode()
    has = any(m.kind == "special" and m.data == marker for m in facts.meanings)
    own = facts.tokenizer.eos_token
    return from_page(
        "markers-in-pieces",
        f"{len(spelled):,} of {len(rows):,} rows end in {name!r}, in {len(tokens)} tokens",
        f"the tokenizer has {'a' if has else 'no'} token for it; its own end token is {own!r}",
        case="at the end",
        example=(f"{row.placed.row.origin}: {'·'.join(token_names(row.placed.ids[tokens], facts))}",),
    )


def _foreign(rows: Sequence[ReadRow], family: Family, own: bytes) -> Finding:
    row = rows[0]
    names = [other.name for other in FAMILIES if other.markers and any(marker in own for marker in other.markers)]
    return from_page(
        "template-of-another-family",
        f"{len(rows):,} rows in the template {family.name}",
        f"the tokenizer's own: {names[0] if names else own.decode('utf-8', 'replace')[:80]!r}",
        example=(f"{row.placed.row.origin}: {row.text[:160].decode('utf-8', 'replace')!r}",),
    )
