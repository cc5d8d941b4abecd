"""Align many rows at once, with array operations: the usual rows.

Usual is: student and teacher have the same special tokens, but for a BOS in front, and the same bytes between them, but
for one prefix space at the start of each run. Other rows are left to `walk.py`, which gives the same plans, row by row.

A *run* is the text between two special tokens, or between one and an end of the row. Letters: T tokens of all rows one
after the other, R rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.plan import LeftOut, SpanPlan
from distillab.alignment.tables import SPECIAL, TEXT, TokenTable

_SPACE = 32


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one tokenizer, one after the other.

    Args:
        table: the tokenizer's tokens.
        ids: (T,) int64.
        borders: (R + 1,) int64, row r is `ids[borders[r]:borders[r + 1]]`.
    """

    table: TokenTable
    ids: NDArray[np.int64]
    borders: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int32]], table: TokenTable) -> Rows:
        """Put rows one after the other."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.concatenate(rows) if len(rows) else np.zeros(0, dtype=np.int64)
        return cls(table, ids.astype(np.int64), np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))

    def only(self, chosen: NDArray[np.bool_]) -> Rows:
        """Return the chosen rows; `chosen` is (R,) bool."""
        if chosen.all():
            return self
        lengths = np.diff(self.borders)
        ids = self.ids[np.repeat(chosen, lengths)]
        borders = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths[chosen])])
        return Rows(self.table, ids, borders)

    def row(self, number: int) -> NDArray[np.int64]:
        """Return one row's ids, (L,)."""
        return self.ids[self.borders[number] : self.borders[number + 1]]


def align_usual(student: Rows, teacher: Rows, pairs: NDArray[np.bool_]) -> tuple[list[SpanPlan], NDArray[np.bool_]]:
    """Return the plans of the usual rows in their order, and (R,) bool: which rows those are.

    Args:
        pairs: from `match_special_tokens`.
    """
    leads = _leads(student, teacher, pairs)
    usual = _same_special_tokens(student, teacher, pairs, leads)
    leads = (leads[0][usual], leads[1][usual])
    runs = [_TextRuns.of(rows.only(usual), lead) for rows, lead in zip((student, teacher), leads, strict=True)]
    same, spaces = _same_bytes(*runs)
    if not same.all():
        usual[usual] = same
        leads = (leads[0][same], leads[1][same])
        stays = same[runs[0].rows_of]
        runs = [_TextRuns.of(one.rows.only(same), lead) for one, lead in zip(runs, leads, strict=True)]
        spaces = (spaces[0][stays], spaces[1][stays])
    widths = [one.widths(without, lead) for one, without, lead in zip(runs, spaces, leads, strict=True)]
    return _plans(runs[0].rows, runs[1].rows, leads, widths), usual


def _leads(student: Rows, teacher: Rows, pairs: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (R,) for student and for teacher: 1 where its row begins with a BOS and the other does not, else 0."""
    filled = (np.diff(student.borders) > 0) & (np.diff(teacher.borders) > 0)
    first = [np.zeros(len(filled), dtype=np.int64), np.zeros(len(filled), dtype=np.int64)]
    begins = [np.zeros(len(filled), dtype=np.bool_), np.zeros(len(filled), dtype=np.bool_)]
    for which, rows in enumerate((student, teacher)):
        ids = rows.ids[rows.borders[:-1][filled]]
        first[which][filled] = rows.table.special_numbers[ids]
        begins[which][filled] = rows.table.begins_text[ids]
    both = filled & (first[0] >= 0) & (first[1] >= 0)
    both[both] = pairs[first[0][both], first[1][both]]
    return (begins[0] & ~both).astype(np.int64), (begins[1] & ~both).astype(np.int64)


def _same_special_tokens(
    student: Rows, teacher: Rows, pairs: NDArray[np.bool_], leads: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Return (R,) bool: neither row is empty, there is no `unk`, and the special tokens match one by one."""
    usual = (np.diff(student.borders) > leads[0]) & (np.diff(teacher.borders) > leads[1])
    found = []
    for rows, lead in zip((student, teacher), leads, strict=True):
        kinds = rows.table.kinds[rows.ids]
        places = np.flatnonzero(kinds != TEXT)
        of = np.searchsorted(rows.borders, places, side="right") - 1
        usual[of[kinds[places] != SPECIAL]] = False
        counted = places >= rows.borders[of] + lead[of]
        found.append((rows.table.special_numbers[rows.ids[places[counted]]], of[counted]))
    (student_tokens, student_rows), (teacher_tokens, teacher_rows) = found
    size = len(usual)
    usual &= np.bincount(student_rows, minlength=size) == np.bincount(teacher_rows, minlength=size)
    kept = usual[student_rows]
    differ = ~pairs[student_tokens[kept], teacher_tokens[usual[teacher_rows]]]
    usual[student_rows[kept][differ]] = False
    return usual


@dataclass(frozen=True, eq=False)
class _TextRuns:
    """Rows of one tokenizer, cut at the special tokens; letters: X runs."""

    rows: Rows
    first: NDArray[np.int64]  # (X,) first token
    rows_of: NDArray[np.int64]  # (X,) row
    lengths: NDArray[np.int64]  # (T,) bytes of each token
    n_bytes: NDArray[np.int64]  # (X,)
    text: NDArray[np.uint8]  # bytes of all rows
    starts: NDArray[np.int64]  # (X,) first byte in `text`

    @classmethod
    def of(cls, rows: Rows, lead: NDArray[np.int64]) -> _TextRuns:
        lengths = rows.table.lengths[rows.ids]
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        begins = rows.borders[:-1] + lead
        special = np.flatnonzero(lengths == 0)  # no unk is left, and text has bytes
        of = np.searchsorted(rows.borders, special, side="right") - 1
        inside = special >= begins[of]
        special, of = special[inside], of[inside]
        first = np.sort(np.concatenate([begins, special + 1]))
        last = np.sort(np.concatenate([special, rows.borders[1:]]))
        return cls(
            rows=rows,
            first=first,
            # not by place: the empty run behind a row's last special token begins where the next row does
            rows_of=np.sort(np.concatenate([np.arange(len(begins)), of])),
            lengths=lengths,
            n_bytes=before[last] - before[first],
            text=rows.table.spell(rows.ids),
            starts=before[first],
        )

    def begins_with_space(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.n_bytes > 0
        found[found] = self.text[self.starts[found]] == _SPACE
        return found

    def text_without(self, spaces: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the bytes of the runs that are kept, without the prefix space of those in `spaces`."""
        if kept.all() and not spaces.any():
            return self.text
        keep = np.repeat(kept, self.n_bytes)
        keep[self.starts[spaces]] = False
        return self.text[keep]

    def widths(self, spaces: NDArray[np.bool_], lead: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (T,) places that each token takes on the common line."""
        widths = self.lengths.copy()
        widths[widths == 0] = 1
        widths[self.rows.borders[:-1][lead == 1]] = 0
        widths[self.first[spaces]] -= 1
        return widths


def _same_bytes(
    student: _TextRuns, teacher: _TextRuns
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return (R,) bool: the rows whose bytes agree; and which runs of student and of teacher have a prefix space."""
    longer = student.n_bytes - teacher.n_bytes
    student_spaces = (longer == 1) & student.begins_with_space()
    teacher_spaces = (longer == -1) & teacher.begins_with_space()
    # A prefix space alone has no text that its token could be joined to.
    fits = (longer == student_spaces.astype(np.int64) - teacher_spaces) & (
        (longer == 0) | (np.minimum(student.n_bytes, teacher.n_bytes) > 0)
    )
    same = np.ones(len(student.rows.borders) - 1, dtype=np.bool_)
    same[student.rows_of[~fits]] = False
    kept = same[student.rows_of]
    differ = student.text_without(student_spaces, kept) != teacher.text_without(teacher_spaces, kept)
    if differ.any():
        ends = np.cumsum(np.minimum(student.n_bytes, teacher.n_bytes)[kept])
        same[student.rows_of[kept][np.searchsorted(ends, np.flatnonzero(differ), side="right")]] = False
    return same, (student_spaces, teacher_spaces)


def _plans(
    student: Rows,
    teacher: Rows,
    leads: tuple[NDArray[np.int64], NDArray[np.int64]],
    widths: Sequence[NDArray[np.int64]],
) -> list[SpanPlan]:
    """Cut where a token ends in both rows. The two rows of a pair take the same number of places."""
    ends = [np.cumsum(width) for width in widths]
    marks = [np.zeros(int(ends[0][-1]) + 1 if len(ends[0]) else 1, dtype=np.bool_) for _ in ends]
    for mark, end in zip(marks, ends, strict=True):
        mark[end] = True
    lasts = [
        np.flatnonzero(other[end] & (width > 0)) for other, end, width in zip(marks[::-1], ends, widths, strict=True)
    ]
    rows_of = np.searchsorted(student.borders, lasts[0], side="right") - 1
    is_first = np.diff(rows_of, prepend=-1) > 0
    ranges = []
    for rows, lead, last in zip((student, teacher), leads, lasts, strict=True):
        start = np.concatenate([np.zeros(1, dtype=np.int64), last + 1])[:-1]
        start[is_first] += lead
        base = rows.borders[rows_of]
        ranges.append(np.stack([start - base, last + 1 - base], axis=1).astype(np.int32))
    n_bytes = np.diff(ends[0][lasts[0]], prepend=0).astype(np.int32)
    n_bytes[student.table.kinds[student.ids[lasts[0]]] != TEXT] = 0
    borders = np.searchsorted(rows_of, np.arange(len(student.borders))).tolist()
    left_out = [LeftOut(), LeftOut(one_sided=1)]
    student_leads, teacher_leads = leads[0].tolist(), leads[1].tolist()
    return [
        SpanPlan(
            ranges[0][low:high],
            ranges[1][low:high],
            n_bytes[low:high],
            left_out[student_leads[row]],
            left_out[teacher_leads[row]],
        )
        for row, (low, high) in enumerate(itertools.pairwise(borders))
    ]
