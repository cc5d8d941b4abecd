"""Words of a text in any script: runs of letters and digits, or single characters where a script has no spaces."""

from __future__ import annotations

import unicodedata

import regex

# Unicode's line-breaking classes of text that may break between any two characters (ideographs, kana), or needs a
# dictionary to find its words (Thai, Lao, Khmer, Burmese), but for symbols and emoji.
_UNSPACED = r"[[\p{lb=ID}\p{lb=CJ}\p{lb=SA}]&&[\p{L}\p{M}\p{N}]]"
_CHARACTER = rf"{_UNSPACED}\p{{M}}*"
_WORDS = regex.compile(rf"{_CHARACTER}|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+", regex.VERSION1)
_PIECES = regex.compile(rf"{_CHARACTER}|[\S--{_UNSPACED}]+", regex.VERSION1)
_GRAPHEMES = regex.compile(r"(?!\s)\X")


def words(text: str) -> list[str]:
    """Lower-case words in their composed form; of a text without letters and digits its characters.

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
    """Where a text may be cut: after each run without spaces, or each character of a script without spaces.

    A text of one such piece may be cut after each of its characters.

    >>> piece_ends(" one two ")
    [4, 8]
    >>> piece_ends("日本 is")
    [1, 2, 5]
    >>> piece_ends("fox")
    [1, 2, 3]
    """
    pieces = [found.end() for found in _PIECES.finditer(text)]
    return pieces if len(pieces) > 1 else [found.end() for found in _GRAPHEMES.finditer(text)]
