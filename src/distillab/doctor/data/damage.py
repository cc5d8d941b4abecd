"""Texts that a wrong encoding damaged: UTF-8 read as something else, characters that were lost, marks left behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from distillab.data.examples import Example
from distillab.doctor.data.words import share
from distillab.doctor.page import from_page
from distillab.records import Finding

_MANY = 0.001
_FEWEST_LOST, _MANY_LOST = 3, 0.02

_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)}
for _byte in range(0x80, 0x100):
    try:
        _BYTES[bytes([_byte]).decode("cp1252")] = _byte
    except UnicodeDecodeError:  # cp1252 leaves five bytes without a character
        continue
_NEXT = "[" + re.escape("".join(character for character, byte in _BYTES.items() if byte < 0xC0)) + "]"
_MIS_READ = re.compile(f"[\u00c2-\u00df]{_NEXT}|[\u00e0-\u00ef]{_NEXT}{{2}}|[\u00f0-\u00f4]{_NEXT}{{3}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Latin, Greek, Cyrillic; punctuation to symbols; CJK and Hangul; emoji
_PLAUSIBLE = ((0xA0, 0x24F), (0x370, 0x45F), (0x2010, 0x27BF), (0x3000, 0xD7A3), (0x1F300, 0x1FAFF))
_LOST = "question marks where letters were"
# The first two bytes of a quotation mark or dash, and of a letter inside of a word, as Mac Roman shows them.
_MAC = re.compile("\u201a\u00c4.|(?<=[a-z])\u221a[^\\s\\d\\w\u03c0(]|\u221a[^\\s\\d\\w\u03c0(](?=[a-z])")
# Cyrillic in UTF-8 is twice as many letters in Windows-1251, every second of which is one of two
_CYRILLIC = re.compile("(?:[\u0420\u0421][^\\s\\x00-\\x7f]){4,}")
_LOST_LETTER = re.compile(r"(?<![\w/=&%.+~-])[A-Za-z]{2,}\?(?:t|s|re|ll|ve|d|m)\b(?![=&/])|\b[a-z]+\?[a-z]+\?[a-z]+\b")


def misread(text: str) -> str | None:
    """The first characters that are UTF-8 read as Windows-1252 or Latin-1 ("Ã©" for "é"); None: there are none.

    >>> misread("The cafÃ© isnâ€™t open."), misread("Le café n’est pas ouvert.")
    ('Ã©', None)
    """
    if text.isascii():
        return None
    for match in _MIS_READ.finditer(text):
        try:
            meant = bytes(_BYTES[character] for character in match[0]).decode("utf-8")
        except UnicodeDecodeError:
            continue
        # a letter before a hard space or a French quotation mark is ordinary text
        french = len(match[0]) > 2 and any(character in "\u00a0«»" for character in match[0])
        if not french and any(first <= ord(meant) <= last for first, last in _PLAUSIBLE):
            return match[0]
    return None


def damage_in(text: str) -> list[tuple[str, str]]:
    """(kind, what was found first) of every kind of damage in a text.

    >>> damage_in("The cafÃ© isn‚Äôt open."), damage_in("Le café n’est pas ouvert.")
    ([('UTF-8 that was read as Windows-1252', 'Ã©'), ('UTF-8 that was read as Mac Roman', '‚Äô')], [])
    """
    control, lost = _CONTROL.search(text), _LOST_LETTER.search(text)
    found = {
        "UTF-8 that was read as Windows-1252": misread(text),
        "UTF-8 that was read as Mac Roman": _read_as("mac_roman", _MAC, text),
        "UTF-8 that was read as Windows-1251": _read_as("cp1251", _CYRILLIC, text),
        "the replacement character U+FFFD": "\ufffd" if "\ufffd" in text else "锟斤拷" if "锟斤拷" in text else None,
        "control characters": control[0] if control else None,
        "byte-order marks inside": "\ufeff" if "\ufeff" in text else None,
        _LOST: lost[0] if lost else None,
    }
    return [(kind, piece) for kind, piece in found.items() if piece is not None]


def _read_as(codec: str, pattern: re.Pattern[str], text: str) -> str | None:
    if text.isascii():
        return None
    for match in pattern.finditer(text):
        for piece in (match[0], match[0][:-1]):  # a run may end within a letter
            try:
                meant = piece.encode(codec).decode("utf-8")
            except (UnicodeEncodeError, UnicodeDecodeError):
                continue
            if meant and any(first <= ord(meant[0]) <= last for first, last in _PLAUSIBLE):
                return piece
    return None


def check_damage(examples: Sequence[Example]) -> Finding | None:
    """Count rows with each kind of damage."""
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows: list[set[str]] = []
    for example in examples:
        here = [(text, kind, piece) for text in example.texts for kind, piece in damage_in(text)]
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
        severity="warning" if len(rows) >= _MANY * len(examples) else "note",
        evidence=tuple(f"{share(times, len(examples))} rows hold {kind}" for kind, times in kinds.most_common()),
        example=tuple(first[kind] for kind, _ in kinds.most_common()),
    )


def _around(example: Example, text: str, found: str) -> str:
    at = text.index(found)
    return f"{example.origin}: {text[max(0, at - 30) : at + 30]!r}"
