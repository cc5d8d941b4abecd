"""Extract the value of an answer, such as the number after "####", and compare two values."""

from __future__ import annotations

import string
from decimal import Decimal
from typing import Literal

import regex

from distillab.errors import ConfigError

ValueKind = Literal["number", "text"]

_LIMIT_S = 1.0
_SHOWN = 80
# Sign, currency, digits in threes or in one run, decimals; punctuation and symbols around them, no letter.
_NUMBER = regex.compile(
    r"[\p{P}\p{S}\s]*?(?P<sign>[-−]?)[\p{Sc}\s]*"
    r"(?P<number>(?:\p{Nd}{1,3}(?:,\p{Nd}{3})+|\p{Nd}+)(?:\.\p{Nd}+)?|(?<!\.)\.\p{Nd}+)"
    r"[\p{P}\p{S}\s]*"
)


def normalised(text: str) -> str:
    """Return the text in lower case, without punctuation at the ends of words, articles and double spaces.

    The SQuAD convention (Rajpurkar et al. 2016), but numbers keep their meaning: "3.5" is not "35", "-4" not "4".

    >>> normalised(" The  answer: -3.5. ")
    'answer -3.5'
    """
    words = (_bare(word) for word in text.lower().split())
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


def _bare(word: str) -> str:
    bare = word.strip(string.punctuation)
    before = word[: word.find(bare)]
    return f"-{bare}" if before.endswith("-") and bare[:1].isdigit() else bare


def captured(text: str, pattern: str) -> str | None:
    """Return what the one group of `pattern` captures at its last match; None without a match.

    >>> captured("2 + 2 is 4. #### 4", r"#### (.+)")
    '4'

    Raises:
        ConfigError: the pattern takes longer than a second on this text.
    """
    try:
        found = regex.findall(pattern, text, timeout=_LIMIT_S)
    except TimeoutError as timeout:
        raise ConfigError(
            "evaluation.value_pattern takes too long.",
            where=f"evaluation.value_pattern: {pattern!r}",
            facts=[f"no end after {_LIMIT_S:g} s on a text of {len(text)} characters: {text[:_SHOWN]!r}"],
            fix="write it without alternatives or repetitions inside a repetition, e.g. '#### (.+)'",
        ) from timeout
    return found[-1] if found else None


def same_value(answer: str | None, reference: str | None, *, kind: ValueKind) -> bool:
    """Return whether both exist and are equal.

    Args:
        kind: number: two numbers are compared by their value, anything else by its normalised text;
            text: always by the normalised text.

    >>> same_value("$65,960.00", "65960", kind="number"), same_value("65,960", "65960", kind="text")
    (True, False)
    """
    if answer is None or reference is None:
        return False
    if kind == "number":
        left, right = number(answer), number(reference)
        if left is not None and right is not None:
            return left == right
    return normalised(answer) == normalised(reference)


def number(text: str) -> Decimal | None:
    """Parse a text as a number, with commas between thousands and a point before decimals; None if it is no number.

    >>> number("-$1,234.50."), number("1,5"), number("3 apples")
    (Decimal('-1234.50'), None, None)
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    value = Decimal(found["number"].replace(",", ""))
    return -value if found["sign"] else value
