"""Find special and other added tokens in text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

Range = tuple[int, int]


class Found(NamedTuple):
    """An added token in a text: half-open character range, id, and whether it is special."""

    start: int
    end: int
    id: int
    special: bool


class AddedTokens:
    """The added tokens of a tokenizer, at which it splits a text first."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokens = {str(token.content): (number, token) for number, token in tokenizer.added_tokens_decoder.items()}
        self._any = _pattern(self._tokens.values())
        self._special = _pattern(pair for pair in self._tokens.values() if pair[1].special)

    def find(self, text: str, *, literal: Sequence[Range] = ()) -> Iterator[Found]:
        """Yield the added tokens of a text, in order.

        A special token that overlaps a `literal` range (text of the data) is plain text and is left out. Added tokens
        that are not special (runs of spaces, for example) are found everywhere, as by the tokenizer.
        """
        if self._any is None:
            return
        place = 0
        while match := self._any.search(text, place):
            number, token = self._tokens[match[match.lastindex or 0]]
            start, end = match.span()
            if token.special and any(start < stop and begin < end for begin, stop in literal):
                place = match.start() + 1
                continue
            yield Found(start, end, number, bool(token.special))
            place = end

    def special_strings(self, text: str) -> list[Range]:
        """Return the ranges of a text in which a special token is spelled."""
        # most texts have none, and to search takes a third of the time of listing what is found
        if self._special is None or self._special.search(text) is None:
            return []
        return [match.span(match.lastindex or 0) for match in self._special.finditer(text)]


def _pattern(tokens: Iterable[tuple[int, AddedToken]]) -> re.Pattern[str] | None:
    alternatives = []
    # Longest first: the tokenizers library takes the longest of the tokens that start at one place.
    for _, token in sorted(tokens, key=lambda pair: -len(pair[1].content)):
        # a group only where more than the token matches: patterns without groups search several times faster
        text = f"({re.escape(token.content)})" if token.lstrip or token.rstrip else re.escape(token.content)
        if token.single_word:
            text = rf"(?<!\w){text}(?!\w)"
        alternatives.append(("\\s*" if token.lstrip else "") + text + ("\\s*" if token.rstrip else ""))
    return re.compile("|".join(alternatives)) if alternatives else None
