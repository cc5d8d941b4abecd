"""Shows a piece of a row token by token: what is scored stands inside ⟦ ⟧, padding and long stretches are folded."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from distillab.data.view import token_texts
from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.tokens import TokenFacts

_BORDER, _OPEN, _CLOSE = "·", "⟦", "⟧"
_MOST, _KEPT = 96, 64
_SCORED, _GIVEN, _PADDING = ("black on green", "black on bright_green"), ("dim", "dim underline"), "yellow"


def token_names(ids: NDArray[np.int64], facts: TokenFacts) -> list[str]:
    """Return the text of each token; of an integer that is no id, the number."""
    return [
        f"<no token {number}>" if facts.meaning(number).kind == "unused" else token_texts([number], facts.meanings)[0]
        for number in ids.tolist()
    ]


def row_line(row: PlacedRow, facts: TokenFacts) -> str:
    """One line of plain text: tokens separated by ·, scored ones inside ⟦ ⟧, padding as ‹pad ×12›."""
    parts: list[str] = []
    for padding, scored, _, text in _stretches(row, facts):
        shown = f"‹{text}›" if padding else text
        parts.append(f"{_OPEN}{shown}{_CLOSE}" if scored else shown)
    return _BORDER.join(parts)


def row_example(row: PlacedRow, facts: TokenFacts) -> tuple[str]:
    """Return the line of a row with its place, as the example of a finding."""
    return (f"{row.row.origin}: {row_line(row, facts)}",)


def row_text(row: PlacedRow, facts: TokenFacts) -> Text:
    """The same for a terminal: scored tokens on green, padding in yellow, two shades in turn."""
    result = Text()
    for padding, scored, texts, folded in _stretches(row, facts):
        for place, text in enumerate([f"‹{folded}›"] if padding else texts):
            style = (_SCORED if scored else _GIVEN)[place % 2]
            result.append(text, style=f"{_PADDING} on green" if padding and scored else _PADDING if padding else style)
    return result


def _stretches(row: PlacedRow, facts: TokenFacts) -> list[tuple[bool, bool, list[str], str]]:
    """(padding, scored, tokens, the same as one text) of every stretch of one kind."""
    kinds = list(zip(row.padding.tolist(), row.scored.tolist(), strict=True))
    found, place = [], 0
    for (padding, scored), group in groupby(kinds):
        size = len(list(group))
        ids = row.ids[place : place + size]
        place += size
        texts = _folded(ids, facts)
        same = size > 0 and bool((ids == ids[0]).all())
        text = f"{token_names(ids[:1], facts)[0]} ×{size}" if padding and same else _BORDER.join(texts)
        found.append((padding, scored, texts, text))
    return found


def _folded(ids: NDArray[np.int64], facts: TokenFacts) -> list[str]:
    if len(ids) <= _MOST:
        return token_names(ids, facts)
    half = _KEPT // 2
    left_out = f" … {len(ids) - 2 * half:,} tokens … "
    return [*token_names(ids[:half], facts), left_out, *token_names(ids[-half:], facts)]
