"""Split text of any script into words: runs of letters and digits, or characters in scripts without spaces."""

from __future__ import annotations

import unicodedata

import regex

# Unicode's line-breaking classes of text that can break between any two characters (ideographs, kana) or needs a
# dictionary to find its words (Thai, Lao, Khmer, Burmese), without symbols and emoji.
_UNSPACED = r"[[\p{lb=ID}\p{lb=CJ}\p{lb=SA}]&&[\p{L}\p{M}\p{N}]]"
_CHARACTER = rf"{_UNSPACED}\p{{M}}*"
_WORDS = regex.compile(rf"{_CHARACTER}|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+", regex.VERSION1)
_PIECES = regex.compile(rf"{_CHARACTER}|[\S--{_UNSPACED}]+", regex.VERSION1)
_GRAPHEMES = regex.compile(r"(?!\s)\X")


def words(text: str) -> list[str]:
    """Return lower-case words in composed form (NFC); the characters of a text without letters and digits.

    >>> words("Größe: it's 3.5")
    ['größe', 'it', 's', '3', '5']
    >>> words("東京は7月")
    ['東', '京', 'は', '7', '月']
    >>> words("!? !")
    ['!', '?', '!']
    """
    plain = unicodedata.normalize("NFC", text.lower())
    return _WORDS.findall(plain) or _GRAPHEMES.findall(plain)


def piece_ends(text: str) -> list[int]:
    """Return where a text can be cut: after each run without spaces, or each character of a script without spaces.

    A text of one such piece can be cut after each of its characters.

    >>> piece_ends(" one two ")
    [4, 8]
    >>> piece_ends("日本 is")
    [1, 2, 5]
    >>> piece_ends("fox")
    [1, 2, 3]
    """
    pieces = [found.end() for found in _PIECES.finditer(text)]
    return pieces if len(pieces) > 1 else [found.end() for found in _GRAPHEMES.finditer(text)]
