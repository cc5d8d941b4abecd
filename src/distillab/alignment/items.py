"""The items of one row on one side: runs of text tokens, special tokens, and tokens that hide what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.agreement import REACH, characters
from distillab.alignment.tables import TEXT, TokenTable


class Item(NamedTuple):
    """A run of text tokens, one marker, or one hole."""

    kind: int
    first: int
    last: int
    data: bytes
    ends: NDArray[np.int64]  # of a run of text: where its tokens end in `data`
    marker: int


@dataclass
class Side:
    """One side of a row, and where its tokens end on the line of coordinates."""

    items: list[Item]
    cut: bool
    coordinates: list[int] = field(default_factory=lambda: [0])
    indices: list[int] = field(default_factory=lambda: [0])

    def bound(self, coordinate: int, index: int) -> None:
        """Add one boundary: `index` tokens end at it."""
        self.coordinates.append(coordinate)
        self.indices.append(index)

    def read(self, item: Item, start: int, stop: int, at: int) -> None:
        """Boundaries of the tokens that end in the bytes start < end <= stop of a run, whose first byte is at `at`."""
        low, high = np.searchsorted(item.ends, (start, stop), side="right").tolist()
        self.coordinates.extend((item.ends[low:high] + (at - start)).tolist())
        self.indices.extend(range(item.first + low + 1, item.first + high + 1))


def split_items(ids: NDArray[np.int64], table: TokenTable) -> list[Item]:
    """The items of a row, in order."""
    kinds = table.kinds[ids]
    nothing = np.zeros(0, dtype=np.int64)
    items: list[Item] = []
    place = 0
    for other in [*np.flatnonzero(kinds != TEXT).tolist(), len(ids)]:
        if other > place:
            run = ids[place:other]
            ends = np.cumsum(table.lengths[run])
            items.append(Item(TEXT, place, other, table.spell(run).tobytes(), ends, -1))
        if other < len(ids):
            number = int(table.marker_numbers[ids[other]])
            content = table.markers[number].content if number >= 0 else b""
            items.append(Item(int(kinds[other]), other, other + 1, content, nothing, number))
        place = other + 1
    return items


class Character(NamedTuple):
    """A character of a text, or an item that is no text.

    Attributes:
        symbol: its bytes; for other items a number that the other side does not have.
        items_left: items from its own on.
        start: its first byte in its item.
        end: the byte behind its last.
    """

    symbol: bytes | int
    items_left: int
    start: int
    end: int


def first_characters(items: Sequence[Item], read: int, *, nothing: int) -> list[Character]:
    """The first `REACH` characters behind `read` bytes of the first item."""
    found: list[Character] = []
    for number, item in enumerate(items):
        if len(found) >= REACH:
            break
        left, place = len(items) - number, 0 if number else read
        if item.kind != TEXT:
            found.append(Character(nothing, left, 0, 0))
            continue
        for symbol in characters(item.data[place : place + 4 * REACH]):
            found.append(Character(symbol, left, place, place + len(symbol)))
            place += len(symbol)
    return found[:REACH]


def last_text(items: Sequence[Item], read: int) -> bytes:
    """What is left of the last item, where that is text."""
    if not items or items[-1].kind != TEXT:
        return b""
    return items[-1].data[read:] if len(items) == 1 else items[-1].data
