"""Walk through one row: the text between its matching special tokens, and the boundaries and gaps in it.

The rules are in `walk.py`, which begins such a walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, NamedTuple

import numpy as np

from distillab.alignment.agreement import SURE, agreeing_end, agreeing_start, blocks_behind
from distillab.alignment.items import Character, Item, TokenBoundaries, first_characters, last_text
from distillab.alignment.plan import LeftOut, SpanPlan
from distillab.alignment.tables import SPECIAL, TEXT, UNKNOWN

Reason = Literal["one_sided", "differing", "cut"]


class Difference(NamedTuple):
    """The first place where the bytes differ: what the student and the teacher have, and the last bytes before it."""

    place: int
    before: bytes
    student: bytes
    teacher: bytes


@dataclass
class Walk:
    """The walk through one row: how far it is, its gaps, and the first place where the bytes differ."""

    student: TokenBoundaries
    teacher: TokenBoundaries
    spells: bool  # compare the content of an unmatched special token with the other row's text
    at: int = 0
    gaps: list[tuple[int, int, Reason]] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)
    difference: Difference | None = None

    def run(self, anchors: Sequence[tuple[int, int]]) -> None:
        """Walk from one pair of matching special tokens to the next."""
        student_next = teacher_next = 0
        for a, b in anchors:
            _Region(self, self.student.items[student_next:a], self.teacher.items[teacher_next:b], closed=True).run()
            self.matched.append(self.at)
            self.at += 1
            self.student.bound(self.at, self.student.items[a].last)
            self.teacher.bound(self.at, self.teacher.items[b].last)
            student_next, teacher_next = a + 1, b + 1
        _Region(self, self.student.items[student_next:], self.teacher.items[teacher_next:], closed=False).run()

    def gap(self, row: TokenBoundaries, items: Sequence[Item], start: int, stop: int, reason: Reason) -> None:
        """Add what only this row has: from byte `start` of the first item to byte `stop` of the last."""
        begin = self.at
        for number, item in enumerate(items):
            if item.kind != TEXT:
                self.at += 1
                row.bound(self.at, item.last)
                continue
            low = start if number == 0 else 0
            high = stop if number == len(items) - 1 else len(item.data)
            row.read(item, low, high, self.at)
            self.at += high - low
        if self.at > begin:
            self.gaps.append((begin, self.at, reason))
            other = self.teacher if row is self.student else self.student
            if other.coordinates[-1] == begin:
                other.bound(self.at, other.indices[-1])

    def plan(self) -> SpanPlan:
        """Return the spans between neighbouring boundaries of both rows that no gap is in."""
        shared, student, teacher = np.intersect1d(
            np.array(self.student.coordinates),
            np.array(self.teacher.coordinates),
            assume_unique=True,
            return_indices=True,
        )
        student, teacher = np.array(self.student.indices)[student], np.array(self.teacher.indices)[teacher]
        start, stop = shared[:-1], shared[1:]
        why = np.zeros(len(start), dtype=np.int64)
        for begin, end, reason in reversed(self.gaps):  # of several reasons the first one counts
            why[(start < end) & (stop > begin)] = 1 + LeftOut._fields.index(reason)
        used = why == 0
        both = (student, teacher)
        ranges = [np.stack([ends[:-1], ends[1:]], axis=1).astype(np.int32) for ends in both]
        n_bytes = np.where(np.isin(start, self.matched), 0, stop - start).astype(np.int32)
        counts = [np.bincount(why, weights=np.diff(ends), minlength=4).astype(int).tolist() for ends in both]
        return SpanPlan(
            ranges[0][used], ranges[1][used], n_bytes[used], LeftOut(*counts[0][1:]), LeftOut(*counts[1][1:])
        )


class _Region:
    """The items between two pairs of special tokens that match, or behind the last pair (`closed` False).

    `student` and `teacher` are the items that are left, `student_read` and `teacher_read` the bytes read of the first.
    """

    def __init__(self, walk: Walk, student: Sequence[Item], teacher: Sequence[Item], *, closed: bool) -> None:
        self.walk, self.student, self.teacher, self.closed = walk, list(student), list(teacher), closed
        self.student_read = self.teacher_read = 0

    def run(self) -> None:
        walk = self.walk
        while True:
            self._next()
            student = self.student[0] if self.student else None
            teacher = self.teacher[0] if self.teacher else None
            if student is None and teacher is None:
                return
            kinds = {item.kind for item in (student, teacher) if item is not None}
            if UNKNOWN in kinds:
                if not self._resume():
                    self._rest()
                    return
                continue
            if SPECIAL in kinds:
                self._special_tokens(student, teacher)
                continue
            agrees = self._one_ended() if student is None or teacher is None else self._texts(student, teacher)
            if not agrees:
                if walk.difference is None:
                    walk.difference = Difference(walk.at, *self._context())
                if not self._resume():
                    self._rest()
                    return

    def _next(self) -> None:
        if self.student and self.student[0].kind == TEXT and self.student_read == len(self.student[0].data):
            self.student, self.student_read = self.student[1:], 0
        if self.teacher and self.teacher[0].kind == TEXT and self.teacher_read == len(self.teacher[0].data):
            self.teacher, self.teacher_read = self.teacher[1:], 0

    def _special_tokens(self, student: Item | None, teacher: Item | None) -> None:
        walk = self.walk
        if student is not None and student.kind == SPECIAL:
            self.student = self.student[1:]
            self.teacher_read = self._special_token(walk.student, student, walk.teacher, teacher, self.teacher_read)
        if teacher is not None and teacher.kind == SPECIAL:
            self.teacher = self.teacher[1:]
            self.student_read = self._special_token(walk.teacher, teacher, walk.student, student, self.student_read)

    def _special_token(
        self, row: TokenBoundaries, token: Item, other: TokenBoundaries, text: Item | None, read: int
    ) -> int:
        """Add a special token of one row; return how many bytes of the other row's `text` are read then."""
        walk = self.walk
        if text is None or (place := self._spelled(text, read, token.data)) is None:
            walk.gap(row, [token], 0, 0, "one_sided")
            return read
        end = place + len(token.data)
        other.read(text, place, end, walk.at)
        walk.at += len(token.data)
        row.bound(walk.at, token.last)
        return end

    def _spelled(self, text: Item, place: int, content: bytes) -> int | None:
        """Return where a text spells a special token, here or behind its prefix space; None if it does not."""
        if not self.walk.spells or text.kind != TEXT or not content:
            return None
        if text.data.startswith(content, place):
            return place
        return 1 if place == 0 and text.data.startswith(b" " + content) else None

    def _texts(self, student: Item, teacher: Item) -> bool:
        """Read what agrees; return False if the bytes differ."""
        if self.student_read == 0 or self.teacher_read == 0:
            student_spaces, teacher_spaces = (
                sum(1 for _ in takewhile(lambda byte: byte == 32, data))
                for data in (student.data[self.student_read :], teacher.data[self.teacher_read :])
            )
            if self.student_read == 0 and student_spaces == teacher_spaces + 1:
                self.student_read = 1
            elif self.teacher_read == 0 and teacher_spaces == student_spaces + 1:
                self.teacher_read = 1
        length = agreeing_start(student.data[self.student_read :], teacher.data[self.teacher_read :])
        self._read(length)
        return self.student_read == len(student.data) or self.teacher_read == len(teacher.data)

    def _read(self, length: int) -> None:
        """Read bytes of the first items that agree."""
        walk = self.walk
        walk.student.read(self.student[0], self.student_read, self.student_read + length, walk.at)
        walk.teacher.read(self.teacher[0], self.teacher_read, self.teacher_read + length, walk.at)
        self.student_read, self.teacher_read, walk.at = (
            self.student_read + length,
            self.teacher_read + length,
            walk.at + length,
        )

    def _one_ended(self) -> bool:
        """Leave out what only one row still has, if it is a prefix space alone or behind the cut; else return False."""
        walk, left = self.walk, self.student or self.teacher
        row, ended = (walk.student, walk.teacher) if self.student else (walk.teacher, walk.student)
        read = self.student_read if self.student else self.teacher_read
        if len(left) == 1 and left[0].data == b" " and read == 0:
            walk.gap(row, left, 0, 1, "one_sided")
        elif ended.cut and not self.closed:
            walk.gap(row, left, read, len(left[-1].data), "cut")
        else:
            return False
        self.student, self.teacher, self.student_read, self.teacher_read = [], [], 0, 0
        return True

    def _resume(self) -> bool:
        """Leave out the characters that differ here and read what agrees behind them; return False if nothing does."""
        student = first_characters(self.student, self.student_read, nothing=-1)
        teacher = first_characters(self.teacher, self.teacher_read, nothing=-2)
        blocks = blocks_behind([place.symbol for place in student], [place.symbol for place in teacher])
        if blocks:
            *_, block = blocks
            passed = (*student[: block.left], *teacher[: block.right])
            sure = block.length == SURE or block.left + block.length == len(student)
            if any(isinstance(place.symbol, int) for place in passed):
                # the length of the text behind unk is not known, so a few characters may agree by accident
                blocks = [block] if sure else []
        for block in blocks:
            first, last = student[block.left], student[block.left + block.length - 1]
            self._leave_out(first, teacher[block.right])
            self._read(last.end - first.start)
        return bool(blocks)

    def _leave_out(self, student: Character, teacher: Character) -> None:
        """Make a gap of what each row has before these two characters, and go there."""
        for row, items, read, found in (
            (self.walk.student, self.student, self.student_read, student),
            (self.walk.teacher, self.teacher, self.teacher_read, teacher),
        ):
            passed = items[: len(items) - found.items_left + (found.start > 0)]
            self.walk.gap(row, passed, read, found.start or (len(passed[-1].data) if passed else 0), "differing")
        self.student, self.student_read = self.student[len(self.student) - student.items_left :], student.start
        self.teacher, self.teacher_read = self.teacher[len(self.teacher) - teacher.items_left :], teacher.start

    def _rest(self) -> None:
        """Leave out the rest, but for the bytes that agree at its end."""
        walk = self.walk
        length = 0
        if self.closed or not (walk.student.cut or walk.teacher.cut):
            length = agreeing_end(
                last_text(self.student, self.student_read), last_text(self.teacher, self.teacher_read)
            )
        for row, items, read in (
            (walk.student, self.student, self.student_read),
            (walk.teacher, self.teacher, self.teacher_read),
        ):
            walk.gap(row, items, read, len(items[-1].data) - length if items else 0, "differing")
        if length:
            for row, item in ((walk.student, self.student[-1]), (walk.teacher, self.teacher[-1])):
                row.read(item, len(item.data) - length, len(item.data), walk.at)
            walk.at += length

    def _context(self) -> tuple[bytes, bytes, bytes]:
        before, behind = b"", []
        for items, read in ((self.student, self.student_read), (self.teacher, self.teacher_read)):
            data = items[0].data if items else b""
            behind.append(data[read : read + 24])
            before = before or data[max(0, read - 24) : read]
        return before, behind[0], behind[1]
