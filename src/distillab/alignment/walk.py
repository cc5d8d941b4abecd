"""The spans of one row, whatever stands in it: the general way, run by run.

Both sides are laid on one line of coordinates. Bytes that agree take one place each, a pair of special tokens takes
one; what only one side has takes places of its own, a *gap*. Every token end is a boundary at its coordinate; where the
other side has nothing in a gap, its boundary in front of the gap stands behind it too. Then a span lies between two
neighbouring boundaries that both sides have, and is left out where a gap is in it.

Rules for what only one side has:
* A row may begin with a BOS that the other side lacks.
* A text, or what follows a special token, may begin with one space more than on the other side (SentencePiece's
  prefix). It takes no place; where it is a token by itself, that token belongs to the span that follows.
* A special token that the other side lacks is left out; or, where the bytes do not agree so, it is compared with the
  other side's text by its content.
* Where characters differ, or a token hides what it stands for, only these are left out: what agrees before and behind
  them is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.agreement import SURE, agreeing_end, agreeing_start, blocks_behind
from distillab.alignment.items import Character, Item, Side, first_characters, last_text, split_items
from distillab.alignment.plan import LeftOut, SpanPlan
from distillab.alignment.tables import HOLE, MARKER, TEXT, TokenTable

Reason = Literal["one_sided", "differing", "cut"]


class Difference(NamedTuple):
    """The first place at which the bytes differ: what stands there on both sides, and the last bytes before it."""

    place: int
    before: bytes
    student: bytes
    teacher: bytes


def walk_row(
    student_ids: NDArray[np.int64],
    teacher_ids: NDArray[np.int64],
    student: TokenTable,
    teacher: TokenTable,
    pairs: NDArray[np.bool_],
    *,
    student_cut: bool,
    teacher_cut: bool,
) -> tuple[SpanPlan, Difference | None]:
    """The plan of one row, and where its bytes differ; see the module.

    Args:
        student_ids: (L,) ids of the row. teacher_ids: (M,) the same text.
        pairs: from `pairing_markers(student, teacher)`.
        student_cut: the row was cut at its end, so its text is a beginning of the other's. teacher_cut: the same.
    """
    ours, theirs = split_items(student_ids, student), split_items(teacher_ids, teacher)
    anchors = _anchors(ours, theirs, student, teacher, pairs, cut=student_cut or teacher_cut)
    markers = sum(item.kind == MARKER for item in (*ours, *theirs))
    tries = []
    for spells in (False, True):
        walk = _Walk(Side(ours, student_cut), Side(theirs, teacher_cut), spells)
        walk.run(anchors)
        tries.append((walk.plan(), walk.difference))
        if walk.difference is None or markers == 2 * len(anchors):
            return tries[-1]
    return min(tries, key=lambda found: (found[1] is not None, -sum(found[0].n_bytes.tolist())))


def _anchors(
    ours: Sequence[Item],
    theirs: Sequence[Item],
    student: TokenTable,
    teacher: TokenTable,
    pairs: NDArray[np.bool_],
    *,
    cut: bool,
) -> list[tuple[int, int]]:
    """Items that are the same special token on both sides: as many from the front, then from the end, as agree."""
    sides = [
        [place for place, item in enumerate(items) if item.kind == MARKER and has_pair[item.marker]]
        for items, has_pair in ((ours, np.any(pairs, axis=1)), (theirs, np.any(pairs, axis=0)))
    ]

    def agree(a: int, b: int) -> bool:
        return bool(pairs[ours[a].marker, theirs[b].marker])

    begins = [
        bool(side) and items[0].kind == MARKER and "bos" in table.markers[items[0].marker].roles
        for side, items, table in zip(sides, (ours, theirs), (student, teacher), strict=True)
    ]
    both = bool(sides[0] and sides[1]) and sides[0][0] == sides[1][0] == 0 and agree(0, 0)
    if not both:
        sides = [[p for p in side if p > 0] if begin else side for side, begin in zip(sides, begins, strict=True)]
    matched = list(takewhile(lambda pair: agree(*pair), zip(*sides, strict=False)))
    if cut:
        return matched
    rest = [side[len(matched) :] for side in sides]
    behind = list(takewhile(lambda pair: agree(*pair), zip(reversed(rest[0]), reversed(rest[1]), strict=False)))
    return [*matched, *reversed(behind)]


@dataclass
class _Walk:
    student: Side
    teacher: Side
    spells: bool
    at: int = 0
    gaps: list[tuple[int, int, Reason]] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    difference: Difference | None = None

    def run(self, anchors: Sequence[tuple[int, int]]) -> None:
        ours = theirs = 0
        for a, b in anchors:
            _Region(self, self.student.items[ours:a], self.teacher.items[theirs:b], closed=True).run()
            self.marked.append(self.at)
            self.at += 1
            self.student.bound(self.at, self.student.items[a].last)
            self.teacher.bound(self.at, self.teacher.items[b].last)
            ours, theirs = a + 1, b + 1
        _Region(self, self.student.items[ours:], self.teacher.items[theirs:], closed=False).run()

    def gap(self, side: Side, items: Sequence[Item], start: int, stop: int, reason: Reason) -> None:
        """What one side alone has: from byte `start` of the first item to byte `stop` of the last."""
        begin = self.at
        for number, item in enumerate(items):
            if item.kind != TEXT:
                self.at += 1
                side.bound(self.at, item.last)
                continue
            low = start if number == 0 else 0
            high = stop if number == len(items) - 1 else len(item.data)
            side.read(item, low, high, self.at)
            self.at += high - low
        if self.at > begin:
            self.gaps.append((begin, self.at, reason))
            other = self.teacher if side is self.student else self.student
            if other.coordinates[-1] == begin:
                other.bound(self.at, other.indices[-1])

    def plan(self) -> SpanPlan:
        shared, ours, theirs = np.intersect1d(
            np.array(self.student.coordinates),
            np.array(self.teacher.coordinates),
            assume_unique=True,
            return_indices=True,
        )
        ours, theirs = np.array(self.student.indices)[ours], np.array(self.teacher.indices)[theirs]
        start, stop = shared[:-1], shared[1:]
        why = np.zeros(len(start), dtype=np.int64)
        for begin, end, reason in reversed(self.gaps):  # of several reasons the first one counts
            why[(start < end) & (stop > begin)] = 1 + LeftOut._fields.index(reason)
        used = why == 0
        ranges = [np.stack([side[:-1], side[1:]], axis=1).astype(np.int32) for side in (ours, theirs)]
        n_bytes = np.where(np.isin(start, self.marked), 0, stop - start).astype(np.int32)
        counts = [np.bincount(why, weights=np.diff(side), minlength=4).astype(int).tolist() for side in (ours, theirs)]
        return SpanPlan(
            ranges[0][used], ranges[1][used], n_bytes[used], LeftOut(*counts[0][1:]), LeftOut(*counts[1][1:])
        )


class _Region:
    """What stands between two special tokens that both sides have."""

    def __init__(self, walk: _Walk, ours: Sequence[Item], theirs: Sequence[Item], *, closed: bool) -> None:
        self.walk, self.ours, self.theirs, self.closed = walk, list(ours), list(theirs), closed
        self.a = self.b = 0  # bytes read of the first item that is left

    def run(self) -> None:
        walk = self.walk
        while True:
            self._next()
            ours, theirs = self.ours[0] if self.ours else None, self.theirs[0] if self.theirs else None
            if ours is None and theirs is None:
                return
            kinds = {item.kind for item in (ours, theirs) if item is not None}
            if HOLE in kinds:
                if not self._resume():
                    self._rest()
                    return
                continue
            if MARKER in kinds:
                self._markers(ours, theirs)
                continue
            agrees = self._one_ended() if ours is None or theirs is None else self._texts(ours, theirs)
            if not agrees:
                if walk.difference is None:
                    walk.difference = Difference(walk.at, *self._context())
                if not self._resume():
                    self._rest()
                    return

    def _next(self) -> None:
        if self.ours and self.ours[0].kind == TEXT and self.a == len(self.ours[0].data):
            self.ours, self.a = self.ours[1:], 0
        if self.theirs and self.theirs[0].kind == TEXT and self.b == len(self.theirs[0].data):
            self.theirs, self.b = self.theirs[1:], 0

    def _markers(self, ours: Item | None, theirs: Item | None) -> None:
        walk = self.walk
        if ours is not None and ours.kind == MARKER:
            self.ours = self.ours[1:]
            self.b = self._marker(walk.student, ours, walk.teacher, theirs, self.b)
        if theirs is not None and theirs.kind == MARKER:
            self.theirs = self.theirs[1:]
            self.a = self._marker(walk.teacher, theirs, walk.student, ours, self.a)

    def _marker(self, side: Side, marker: Item, other: Side, text: Item | None, read: int) -> int:
        """One side's special token, of whose other side `read` bytes are read; returns how many are then."""
        walk = self.walk
        if text is None or (place := self._spelled(text, read, marker.data)) is None:
            walk.gap(side, [marker], 0, 0, "one_sided")
            return read
        end = place + len(marker.data)
        other.read(text, place, end, walk.at)
        walk.at += len(marker.data)
        side.bound(walk.at, marker.last)
        return end

    def _spelled(self, text: Item, place: int, content: bytes) -> int | None:
        """Where a run of text spells a marker, at this place or behind its prefix space; None where it does not."""
        if not self.walk.spells or text.kind != TEXT or not content:
            return None
        if text.data.startswith(content, place):
            return place
        return 1 if place == 0 and text.data.startswith(b" " + content) else None

    def _texts(self, ours: Item, theirs: Item) -> bool:
        """Read what agrees; False where the bytes differ."""
        walk = self.walk
        if self.a == 0 or self.b == 0:
            spaces = [
                sum(1 for _ in takewhile(lambda byte: byte == 32, data))
                for data in (ours.data[self.a :], theirs.data[self.b :])
            ]
            if self.a == 0 and spaces[0] == spaces[1] + 1:
                self.a = 1
            elif self.b == 0 and spaces[1] == spaces[0] + 1:
                self.b = 1
        length = agreeing_start(ours.data[self.a :], theirs.data[self.b :])
        walk.student.read(ours, self.a, self.a + length, walk.at)
        walk.teacher.read(theirs, self.b, self.b + length, walk.at)
        walk.at += length
        self.a += length
        self.b += length
        return self.a == len(ours.data) or self.b == len(theirs.data)

    def _one_ended(self) -> bool:
        """One side has nothing left: is what the other has a lone prefix space, or behind the cut?"""
        walk, left = self.walk, self.ours or self.theirs
        side, ended = (walk.student, walk.teacher) if self.ours else (walk.teacher, walk.student)
        read = self.a if self.ours else self.b
        if len(left) == 1 and left[0].data == b" " and read == 0:
            walk.gap(side, left, 0, 1, "one_sided")
        elif ended.cut and not self.closed:
            walk.gap(side, left, read, len(left[-1].data), "cut")
        else:
            return False
        self.ours, self.theirs, self.a, self.b = [], [], 0, 0
        return True

    def _resume(self) -> bool:
        """Leave out the characters that differ here, read what agrees behind them; False where nothing does."""
        walk = self.walk
        ours, theirs = (
            first_characters(self.ours, self.a, nothing=-1),
            first_characters(self.theirs, self.b, nothing=-2),
        )
        blocks = blocks_behind([place.symbol for place in ours], [place.symbol for place in theirs])
        if blocks:
            *_, block = blocks
            passed = (*ours[: block.student], *theirs[: block.teacher])
            sure = block.length == SURE or block.student + block.length == len(ours)
            if any(isinstance(place.symbol, int) for place in passed):
                # nobody knows how much such a token hides, so a few characters behind it may agree by accident
                blocks = [block] if sure else []
        for block in blocks:
            first, last = ours[block.student], ours[block.student + block.length - 1]
            length = last.end - first.start
            self._leave_out(first, theirs[block.teacher])
            walk.student.read(self.ours[0], self.a, self.a + length, walk.at)
            walk.teacher.read(self.theirs[0], self.b, self.b + length, walk.at)
            self.a, self.b, walk.at = self.a + length, self.b + length, walk.at + length
        return bool(blocks)

    def _leave_out(self, ours: Character, theirs: Character) -> None:
        """Make a gap on either side of what stands before these two, and go there."""
        for side, items, read, found in (
            (self.walk.student, self.ours, self.a, ours),
            (self.walk.teacher, self.theirs, self.b, theirs),
        ):
            passed = items[: len(items) - found.items_left + (found.start > 0)]
            self.walk.gap(side, passed, read, found.start or (len(passed[-1].data) if passed else 0), "differing")
        self.ours, self.a = self.ours[len(self.ours) - ours.items_left :], ours.start
        self.theirs, self.b = self.theirs[len(self.theirs) - theirs.items_left :], theirs.start

    def _rest(self) -> None:
        """Leave out up to where the bytes agree from behind."""
        walk = self.walk
        length = 0
        if self.closed or not (walk.student.cut or walk.teacher.cut):
            length = agreeing_end(last_text(self.ours, self.a), last_text(self.theirs, self.b))
        for side, items, read in ((walk.student, self.ours, self.a), (walk.teacher, self.theirs, self.b)):
            walk.gap(side, items, read, len(items[-1].data) - length if items else 0, "differing")
        if length:
            for side, item in ((walk.student, self.ours[-1]), (walk.teacher, self.theirs[-1])):
                side.read(item, len(item.data) - length, len(item.data), walk.at)
            walk.at += length

    def _context(self) -> tuple[bytes, bytes, bytes]:
        before, behind = b"", []
        for items, read in ((self.ours, self.a), (self.theirs, self.b)):
            data = items[0].data if items else b""
            behind.append(data[read : read + 24])
            before = before or data[max(0, read - 24) : read]
        return before, behind[0], behind[1]
