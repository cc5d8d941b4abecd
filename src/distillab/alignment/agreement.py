"""Measure how far two texts agree, in whole characters: from the start, from the end, and behind a difference.

All functions are symmetric: `left` and `right` are the two texts, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# SURE characters in a row that agree are no accident; _MOST characters that differ are compared at once.
SURE, _MOST = 8, 64
# What `blocks_behind` can reach: runs of less than SURE between so many differing characters.
REACH = _MOST + (_MOST + 1) * SURE
_CHARACTER = re.compile(rb"[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]", re.DOTALL)


def agreeing_start(left: bytes, right: bytes) -> int:
    """Return the length of the common start; it ends where a character ends in both texts, or where one text ends."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    differs = np.frombuffer(left[:length], dtype=np.uint8) != np.frombuffer(right[:length], dtype=np.uint8)
    place = int(np.argmax(differs))
    while place and (_inside(left, place) or _inside(right, place)):
        place -= 1
    return place


def agreeing_end(left: bytes, right: bytes) -> int:
    """Return the length of the common end; it begins where a character begins."""
    length = min(len(left), len(right))
    if not length:
        return 0
    differs = np.frombuffer(left[-length:], dtype=np.uint8) != np.frombuffer(right[-length:], dtype=np.uint8)
    found = int(np.argmax(differs[::-1])) if differs.any() else length
    while found and _inside(left, len(left) - found):
        found -= 1
    return found


class Block(NamedTuple):
    """Symbols that agree: where they begin in both texts, and how many there are."""

    left: int
    right: int
    length: int


_Chain = tuple["_Chain", Block] | None  # the blocks of an edit script, the last one first


def blocks_behind(left: Sequence[object], right: Sequence[object]) -> list[Block]:
    """Find what agrees behind a difference, by the shortest edit script (Myers 1986).

    Args:
        left: symbols from the difference on, at most `REACH`: characters, and symbols that equal nothing.
        right: the same of the other text.
    Returns:
        Blocks in order, up to the first of 8 symbols or to the end of both texts. If neither is found within 64
        symbols that differ: those of the edit script that leads farthest. Empty if nothing agrees.
    """
    n, m = len(left), len(right)
    ends: dict[int, tuple[int, _Chain]] = {1: (0, None)}  # diagonal -> how far `left` is read
    farthest: tuple[int, _Chain] = (0, None)
    for edits in range(min(_MOST, n + m) + 1):
        for diagonal in range(-edits, edits + 1, 2):
            before, above = ends.get(diagonal - 1, (-2, None)), ends.get(diagonal + 1, (-1, None))
            x, chain = above if before[0] < above[0] else (before[0] + 1, before[1])
            y = x - diagonal
            if not (0 <= x <= n and 0 <= y <= m):
                ends.pop(diagonal, None)
                continue
            length = 0
            while length < SURE and x + length < n and y + length < m and left[x + length] == right[y + length]:
                length += 1
            if length:
                chain = (chain, Block(x, y, length))
                farthest = max(farthest, (x + y + 2 * length, chain), key=lambda found: found[0])
            ends[diagonal] = (x + length, chain)
            if length == SURE or (x + length == n and y + length == m):
                return _in_order(chain)
    return _in_order(farthest[1])


def characters(data: bytes) -> list[bytes]:
    """Split into UTF-8 characters; a byte that continues none is separate."""
    return _CHARACTER.findall(data)


def _in_order(chain: _Chain) -> list[Block]:
    blocks: list[Block] = []
    while chain is not None:
        chain, block = chain
        blocks.append(block)
    return blocks[::-1]


def _inside(data: bytes, place: int) -> bool:
    """Return whether the byte continues a UTF-8 character."""
    return place < len(data) and data[place] & 0xC0 == 0x80
