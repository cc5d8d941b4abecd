"""How far two texts agree, in whole characters: from their beginnings, from their ends, and behind a difference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# So many characters in a row that agree are no accident; up to so many that differ are looked at together.
SURE, _MOST = 8, 64
# What `blocks_behind` can reach: runs of less than SURE between so many differing characters.
REACH = _MOST + (_MOST + 1) * SURE
_CHARACTER = re.compile(rb"[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]", re.DOTALL)


def agreeing_start(ours: bytes, theirs: bytes) -> int:
    """Length of the common beginning; it ends where a character ends on both sides, or one side."""
    length = min(len(ours), len(theirs))
    if ours[:length] == theirs[:length]:
        return length
    differs = np.frombuffer(ours[:length], dtype=np.uint8) != np.frombuffer(theirs[:length], dtype=np.uint8)
    place = int(np.argmax(differs))
    while place and (_inside(ours, place) or _inside(theirs, place)):
        place -= 1
    return place


def agreeing_end(ours: bytes, theirs: bytes) -> int:
    """Length of the common end; it begins where a character begins."""
    length = min(len(ours), len(theirs))
    if not length:
        return 0
    differs = np.frombuffer(ours[-length:], dtype=np.uint8) != np.frombuffer(theirs[-length:], dtype=np.uint8)
    found = int(np.argmax(differs[::-1])) if differs.any() else length
    while found and _inside(ours, len(ours) - found):
        found -= 1
    return found


class Block(NamedTuple):
    """A stretch that agrees: where it begins on both sides, and how long it is, in symbols."""

    student: int
    teacher: int
    length: int


_Chain = tuple["_Chain", Block] | None  # the blocks of a way, the last one first


def blocks_behind(student: Sequence[object], teacher: Sequence[object]) -> list[Block]:
    """What agrees behind a difference, by the shortest edit script (Myers 1986).

    Args:
        student: symbols from the difference on, the first `REACH` at most: characters, and what equals nothing.
        teacher: the same of the other side.
    Returns:
        Blocks in order, up to the first of 8 symbols or to the end of both sides. Where neither is found within 64
        symbols that differ: those of the way that leads farthest. Empty where nothing agrees.
    """
    n, m = len(student), len(teacher)
    ends: dict[int, tuple[int, _Chain]] = {1: (0, None)}  # diagonal -> how far the student's side is read
    farthest: tuple[int, _Chain] = (0, None)
    for edits in range(min(_MOST, n + m) + 1):
        for diagonal in range(-edits, edits + 1, 2):
            left, above = ends.get(diagonal - 1, (-2, None)), ends.get(diagonal + 1, (-1, None))
            x, chain = above if left[0] < above[0] else (left[0] + 1, left[1])
            y = x - diagonal
            if not (0 <= x <= n and 0 <= y <= m):
                ends.pop(diagonal, None)
                continue
            length = 0
            while length < SURE and x + length < n and y + length < m and student[x + length] == teacher[y + length]:
                length += 1
            if length:
                chain = (chain, Block(x, y, length))
                farthest = max(farthest, (x + y + 2 * length, chain), key=lambda found: found[0])
            ends[diagonal] = (x + length, chain)
            if length == SURE or (x + length == n and y + length == m):
                return _in_order(chain)
    return _in_order(farthest[1])


def characters(data: bytes) -> list[bytes]:
    """The bytes of each UTF-8 character; a byte that continues none stands alone."""
    return _CHARACTER.findall(data)


def _in_order(chain: _Chain) -> list[Block]:
    blocks: list[Block] = []
    while chain is not None:
        chain, block = chain
        blocks.append(block)
    return blocks[::-1]


def _inside(data: bytes, place: int) -> bool:
    """Whether the byte continues a UTF-8 character."""
    return place < len(data) and data[place] & 0xC0 == 0x80
