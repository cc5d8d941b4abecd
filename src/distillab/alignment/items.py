"""Cut a row into items: runs of text tokens, special tokens, and `unk`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.agreement import REACH, characters
from distillab.alignment.tables import TEXT, TokenTable


class Item(NamedTuple):
    """A run of text tokens, one special token, or one `unk`; its tokens are first to last - 1."""

    kind: int
    first: int
    last: int
    data: bytes
    ends: NDArray[np.int64]  # of a run of text: where its tokens end in `data`
    special: int  # place in `TokenTable.special_tokens`, -1 for others


@dataclass
class TokenBoundaries:
    """A row of one tokenizer, and where its tokens end on the line of coordinates."""

    items: list[Item]
    cut: bool
    coordinates: list[int] = field(default_factory=lambda: [0])
    indices: list[int] = field(default_factory=lambda: [0])

    def bound(self, coordinate: int, index: int) -> None:
        """Add a boundary behind the first `index` tokens."""
        self.coordinates.append(coordinate)
        self.indices.append(index)

    def read(self, item: Item, start: int, stop: int, at: int) -> None:
        """Add the boundaries of a run's tokens that end in start < end <= stop; byte `start` is at coordinate `at`."""
        low, high = np.searchsorted(item.ends, (start, stop), side="right").tolist()
        self.coordinates.extend((item.ends[low:high] + (at - start)).tolist())
        self.indices.extend(range(item.first + low + 1, item.first + high + 1))


def split_items(ids: NDArray[np.int64], table: TokenTable) -> list[Item]:
    """Return the items of a row, in order."""
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
            number = int(table.special_numbers[ids[other]])
            content = table.special_tokens[number].content if number >= 0 else b""
            items.append(Item(int(kinds[other]), other, other + 1, content, nothing, number))
        place = other + 1
    return items


class Character(NamedTuple):
    """A character of a text, or an item that is no text.

    Attributes:
        symbol: its bytes; for other items a number that equals nothing in the other row.
        items_left: items from its item on.
        start: its first byte in its item.
        end: the byte behind its last.
    """

    symbol: bytes | int
    items_left: int
    start: int
    end: int


def first_characters(items: Sequence[Item], read: int, *, nothing: int) -> list[Character]:
    """Return the first `REACH` characters behind `read` bytes of the first item; `nothing` stands for other items."""
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
    """Return what is left of the last item, if that is text."""
    if not items or items[-1].kind != TEXT:
        return b""
    return items[-1].data[read:] if len(items) == 1 else items[-1].data
