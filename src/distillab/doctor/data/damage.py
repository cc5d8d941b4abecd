"""Texts that a wrong encoding damaged: UTF-8 read as something else, characters that were lost, marks left behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from distillab.data.examples import Example
from distillab.doctor.data.words import ENCODINGS, not_checked, share
from distillab.doctor.page import from_page
from distillab.records import Finding

_MANY = 0.001
_FEWEST_LOST, _MANY_LOST = 3, 0.02

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LOST = "question marks where letters were"
_LOST_LETTER = re.compile(r"(?<![\w/=&%.+~-])[A-Za-z]{2,}\?(?:t|s|re|ll|ve|d|m)\b(?![=&/])|\b[a-z]+\?[a-z]+\?[a-z]+\b")


def misread(text: str) -> tuple[str, str] | None:
    """(encoding, first characters) of a text that was read in another encoding than its own; None: there are none.

    ftfy judges each line; it must be installed.

    >>> misread("The cafÃ© isnâ€™t open."), misread("Le café n’est pas ouvert.")
    (('windows-1252', 'fÃ©'), None)
    """
    from ftfy import fix_encoding_and_explain
    from ftfy.badness import BADNESS_RE

    if text.isascii():
        return None
    for line in text.splitlines():
        bad = None if line.isascii() else BADNESS_RE.search(line)
        plan = fix_encoding_and_explain(line).explanation if bad is not None else None
        if bad is not None and plan:
            return _encoding(plan[0].action, plan[0].parameter), bad[0]
    return None


def _encoding(action: str, parameter: str) -> str:
    """Return the wrong encoding by ftfy's first step: of the whole line, of pieces, or of single characters."""
    return {"encode": parameter.removeprefix("sloppy-"), "apply": "windows-1252"}.get(action, "latin-1")


def damage_in(text: str, *, encodings: bool = True) -> list[tuple[str, str]]:
    """(kind, what was found first) of every kind of damage in a text.

    Args:
        encodings: look for text that was read in another encoding, too, by ftfy.

    >>> damage_in("The cafÃ© isnâ€™t open."), damage_in("Le café n’est pas ouvert.")
    ([('text that was read as windows-1252', 'fÃ©')], [])
    """
    control, lost = _CONTROL.search(text), _LOST_LETTER.search(text)
    wrong = misread(text) if encodings else None
    found = {
        "" if wrong is None else f"text that was read as {wrong[0]}": None if wrong is None else wrong[1],
        "the replacement character U+FFFD": "\ufffd" if "\ufffd" in text else "锟斤拷" if "锟斤拷" in text else None,
        "control characters": control[0] if control else None,
        "byte-order marks inside": "\ufeff" if "\ufeff" in text else None,
        _LOST: lost[0] if lost else None,
    }
    return [(kind, piece) for kind, piece in found.items() if piece is not None]


def check_damage(examples: Sequence[Example]) -> Finding | None:
    """Count rows with each kind of damage."""
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows: list[set[str]] = []
    encodings = not_checked("", ENCODINGS) is None
    for example in examples:
        here = [(text, *found) for text in example.texts for found in damage_in(text, encodings=encodings)]
        for text, kind, piece in here:
            first.setdefault(kind, _around(example, text, piece))
        rows += [{kind for _, kind, _ in here}] if here else []
    # a question mark without a blank behind it may be a slip; many of them are not
    if sum(_LOST in one for one in rows) < max(_FEWEST_LOST, _MANY_LOST * len(examples)):
        rows = [one - {_LOST} for one in rows if one != {_LOST}]
    for one in rows:
        kinds.update(one)
    if not rows:
        return None
    return from_page(
        "text-damaged",
        *tuple(f"{share(times, len(examples))} rows hold {kind}" for kind, times in kinds.most_common()),
        severity="warning" if len(rows) >= _MANY * len(examples) else "note",
        example=tuple(first[kind] for kind, _ in kinds.most_common()),
    )


def _around(example: Example, text: str, found: str) -> str:
    at = text.index(found)
    return f"{example.origin}: {text[max(0, at - 30) : at + 30]!r}"
