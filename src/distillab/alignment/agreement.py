"""How far two byte strings agree, from their beginnings and from their ends, in whole characters."""

from __future__ import annotations

import numpy as np


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


def _inside(data: bytes, place: int) -> bool:
    """Whether the byte continues a UTF-8 character."""
    return place < len(data) and data[place] & 0xC0 == 0x80
