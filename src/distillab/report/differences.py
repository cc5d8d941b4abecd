"""Mark where an answer differs from its reference, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORDS = re.compile(r"\s+|[^\s\w]|\w+")
_MOST_WORDS = 400  # of both texts; the time grows with their product


@dataclass(frozen=True)
class Piece:
    """A piece of an answer; `differs` where the reference has something else."""

    text: str
    differs: bool = False


def marked(answer: str, reference: str) -> tuple[Piece, ...]:
    """Return the answer in pieces, those marked that the reference has not at that place; long texts are not compared.

    >>> [(piece.text, piece.differs) for piece in marked("It is 7 now.", "It is 8 now.")]
    [('It is ', False), ('7', True), (' now.', False)]
    """
    words, wanted = _WORDS.findall(answer), _WORDS.findall(reference)
    if not answer or len(words) + len(wanted) > _MOST_WORDS:
        return (Piece(answer),)
    pieces: list[Piece] = []
    for kind, start, end, _, _ in SequenceMatcher(None, words, wanted, autojunk=False).get_opcodes():
        if end > start:
            pieces.append(Piece("".join(words[start:end]), kind != "equal"))
    return tuple(pieces)
