"""Texts as words: their plain form, groups of words as numbers, and markers of chat templates that stand in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.markers import FAMILIES

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHOWN = 160
_WORD = re.compile(r"\w+")

LANGUAGES, ENCODINGS = "py3langid", "ftfy"
# Words of ordinary texts ("User: ") are no markers here.
_STRONG = [family for family in FAMILIES if family.markers or family.name == "Alpaca"]
_OWN = {
    family.name: "|".join(
        [
            family.prompt.pattern.decode(),
            family.answer.pattern.decode(),
            *(re.escape(m.decode()) for m in family.markers),
        ]
    )
    for family in _STRONG
}
_ENDS = r"</s>|<s>|<\|endoftext\|>|<\|end_of_text\|>|<\|begin_of_text\|>|<eos>|<bos>|<\|end\|>|<｜end▁of▁sentence｜>"
# one turn in words is ordinary text; a question and behind it an answer is a transcript
_TRANSCRIPT = r"\n\s*(?:User|Human): (?=[\s\S]{1,8000}?\n\s*(?:Assistant|AI|Bot): )"
_ANY = re.compile("|".join([*_OWN.values(), _ENDS, _TRANSCRIPT]))
_BY_FAMILY = {name: re.compile(pattern) for name, pattern in _OWN.items()}
_PROMPTS_AND_ANSWERS = [
    (family.name, re.compile(family.prompt.pattern.decode()), re.compile(family.answer.pattern.decode()))
    for family in _STRONG
]


def plain_form(text: str) -> str:
    """Lower case and single spaces: what is left when two texts differ in case and white space alone.

    >>> plain_form("  Two\\n words ")
    'two words'
    """
    return " ".join(text.lower().split())


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case.

    >>> words_of("It's 3.5, No!")
    ['it', 's', '3', '5', 'no']
    """
    return _WORD.findall(text.lower())


def shown(text: str) -> str:
    """The beginning of a text in quotes, for a finding."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def around(text: str, piece: str, *, reach: int) -> str:
    """What stands around a piece of a text in quotes, so many characters to either side, for a finding."""
    at = max(0, text.find(piece))
    return repr(text[max(0, at - reach) : at + reach])


def share(part: int, whole: int) -> str:
    """A count out of another one, with its share.

    >>> share(1, 8)
    '1 of 8 (12.5%)'
    """
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else f"{part:,} of 0"


@dataclass(frozen=True, eq=False)
class WordGroups:
    """All groups of neighbouring words of many texts.

    Attributes:
        hashes: (T,) uint64, in the order of the texts.
        texts: (T,) the text that each stands in.
    """

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]

    def once(self) -> WordGroups:
        """Each group once a text."""
        order = np.lexsort((self.hashes, self.texts))
        hashes, texts = self.hashes[order], self.texts[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
        return WordGroups(hashes[new], texts[new])

    def where(self, chosen: NDArray[np.bool_]) -> WordGroups:
        """Some of the groups."""
        return WordGroups(self.hashes[chosen], self.texts[chosen])


def word_groups(texts: Sequence[str], size: int) -> WordGroups:
    """Every `size` neighbouring words of each text, as a 64-bit number; linear in the words.

    Case, punctuation and white space do not count. A text of fewer words has no group. The numbers are the same for
    equal words in one process alone, because Python's own hash is.
    """
    words = [words_of(text) for text in texts]
    lengths = np.array([len(own) for own in words], dtype=np.int64)
    every = np.fromiter(map(hash, chain.from_iterable(words)), dtype=np.int64, count=int(lengths.sum()))
    if len(every) < size:
        return WordGroups(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
    mixed = _mixed(every.view(np.uint64))
    hashes = np.zeros(len(every) - size + 1, dtype=np.uint64)
    for place in range(size):
        hashes = hashes * _FACTOR + mixed[place : len(mixed) - size + 1 + place]
    of = np.repeat(np.arange(len(texts)), lengths)[: len(hashes)]
    inside = np.arange(len(hashes)) + size <= np.cumsum(lengths)[of]
    return WordGroups(hashes[inside], of[inside])


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: neighbouring numbers become unlike ones."""
    values = values * _FACTOR
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def not_checked(what: str, package: str) -> str | None:
    """Return the words for what is left out because a package is missing; None: it is there."""
    return None if find_spec(package) is not None else f"not checked: {what} (pip install 'distillab[text]')"


def marker_in(text: str) -> str | None:
    """The first marker of a template, or end token in words, that a text holds."""
    found = _ANY.search(text)
    return found[0] if found else None


def family_of(text: str) -> str | None:
    """The family whose marker stands in a text, or "an end token"; None: none."""
    for name, pattern in _BY_FAMILY.items():
        if pattern.search(text):
            return name
    if re.search(_TRANSCRIPT, text):
        return "turns in words"
    return "an end token as text" if _ANY.search(text) else None


def rendered_by(prompt: str) -> str | None:
    """Return the family whose template a prompt has: it holds a prompt marker, and ends where an answer begins."""
    end = prompt.rstrip()
    for name, prompt_marker, answers in _PROMPTS_AND_ANSWERS:
        last = [match.end() for match in answers.finditer(end)]
        if last and last[-1] >= len(end) - 2 and prompt_marker.search(end):
            return name
    return None
