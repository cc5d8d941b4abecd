"""The spans of many rows in one go, for rows in which nothing unusual stands.

Usual is: the same special tokens on both sides but for a BOS in front, the same bytes between them but for one prefix
space at the start of each stretch. What is not so is left to `walk`, which gives the same plans, row by row.

A *stretch* is the text between two special tokens, or between one and an end of the row. Letters: T tokens of all rows
in a line, R rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.plan import LeftOut, SpanPlan
from distillab.alignment.tables import MARKER, TEXT, TokenTable

_SPACE = 32


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one side, one after the other.

    Args:
        table: the side's tokens.
        ids: (T,) int64.
        borders: (R + 1,) int64, row r is `ids[borders[r]:borders[r + 1]]`.
    """

    table: TokenTable
    ids: NDArray[np.int64]
    borders: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int32]], table: TokenTable) -> Rows:
        """Rows in a line."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.concatenate(rows) if len(rows) else np.zeros(0, dtype=np.int64)
        return cls(table, ids.astype(np.int64), np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))

    def only(self, chosen: NDArray[np.bool_]) -> Rows:
        """Some of the rows; (R,) bool."""
        if chosen.all():
            return self
        lengths = np.diff(self.borders)
        ids = self.ids[np.repeat(chosen, lengths)]
        borders = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths[chosen])])
        return Rows(self.table, ids, borders)

    def row(self, number: int) -> NDArray[np.int64]:
        """One row's ids, (L,)."""
        return self.ids[self.borders[number] : self.borders[number + 1]]


def align_usual(student: Rows, teacher: Rows, pairs: NDArray[np.bool_]) -> tuple[list[SpanPlan], NDArray[np.bool_]]:
    """The plans of the usual rows in their order, and (R,) bool: which rows those are.

    Args:
        pairs: from `pairing_markers`.
    """
    leads = _leads(student, teacher, pairs)
    usual = _same_markers(student, teacher, pairs, leads)
    leads = (leads[0][usual], leads[1][usual])
    ours, theirs = (_Stretches.of(rows.only(usual), lead) for rows, lead in zip((student, teacher), leads, strict=True))
    same, spaces = _same_bytes(ours, theirs)
    if not same.all():
        usual[usual] = same
        leads = (leads[0][same], leads[1][same])
        stays = same[ours.rows_of]
        ours, theirs = (_Stretches.of(s.rows.only(same), lead) for s, lead in zip((ours, theirs), leads, strict=True))
        spaces = (spaces[0][stays], spaces[1][stays])
    widths = [side.widths(without, lead) for side, without, lead in zip((ours, theirs), spaces, leads, strict=True)]
    return _plans(ours.rows, theirs.rows, leads, widths), usual


def _leads(student: Rows, teacher: Rows, pairs: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(R,) 1 where a row begins with a BOS that the other side's row does not begin with, else 0; both sides."""
    filled = (np.diff(student.borders) > 0) & (np.diff(teacher.borders) > 0)
    first = [np.zeros(len(filled), dtype=np.int64), np.zeros(len(filled), dtype=np.int64)]
    begins = [np.zeros(len(filled), dtype=np.bool_), np.zeros(len(filled), dtype=np.bool_)]
    for side, rows in enumerate((student, teacher)):
        ids = rows.ids[rows.borders[:-1][filled]]
        first[side][filled] = rows.table.marker_numbers[ids]
        begins[side][filled] = rows.table.begins_text[ids]
    both = filled & (first[0] >= 0) & (first[1] >= 0)
    both[both] = pairs[first[0][both], first[1][both]]
    return (begins[0] & ~both).astype(np.int64), (begins[1] & ~both).astype(np.int64)


def _same_markers(
    student: Rows, teacher: Rows, pairs: NDArray[np.bool_], leads: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """(R,) bool: neither side is empty, there are no holes, and the special tokens pair one by one."""
    usual = (np.diff(student.borders) > leads[0]) & (np.diff(teacher.borders) > leads[1])
    found = []
    for rows, lead in zip((student, teacher), leads, strict=True):
        kinds = rows.table.kinds[rows.ids]
        places = np.flatnonzero(kinds != TEXT)
        of = np.searchsorted(rows.borders, places, side="right") - 1
        usual[of[kinds[places] != MARKER]] = False
        counted = places >= rows.borders[of] + lead[of]
        found.append((rows.table.marker_numbers[rows.ids[places[counted]]], of[counted]))
    (ours, our_rows), (theirs, their_rows) = found
    size = len(usual)
    usual &= np.bincount(our_rows, minlength=size) == np.bincount(their_rows, minlength=size)
    kept = usual[our_rows]
    apart = ~pairs[ours[kept], theirs[usual[their_rows]]]
    usual[our_rows[kept][apart]] = False
    return usual


@dataclass(frozen=True, eq=False)
class _Stretches:
    """One side's rows cut at the special tokens; letters: X stretches."""

    rows: Rows
    first: NDArray[np.int64]  # (X,) first token
    rows_of: NDArray[np.int64]  # (X,) row
    lengths: NDArray[np.int64]  # (T,) bytes of each token
    n_bytes: NDArray[np.int64]  # (X,)
    text: NDArray[np.uint8]  # bytes of all rows
    starts: NDArray[np.int64]  # (X,) first byte in `text`

    @classmethod
    def of(cls, rows: Rows, lead: NDArray[np.int64]) -> _Stretches:
        lengths = rows.table.lengths[rows.ids]
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        begins = rows.borders[:-1] + lead
        markers = np.flatnonzero(lengths == 0)  # no hole is left, and text has bytes
        of = np.searchsorted(rows.borders, markers, side="right") - 1
        inside = markers >= begins[of]
        markers, of = markers[inside], of[inside]
        first = np.sort(np.concatenate([begins, markers + 1]))
        last = np.sort(np.concatenate([markers, rows.borders[1:]]))
        return cls(
            rows=rows,
            first=first,
            # not by place: the empty stretch behind a row's last marker begins where the next row does
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
        """The bytes of the stretches that are kept, without the prefix space of some."""
        if kept.all() and not spaces.any():
            return self.text
        keep = np.repeat(kept, self.n_bytes)
        keep[self.starts[spaces]] = False
        return self.text[keep]

    def widths(self, spaces: NDArray[np.bool_], lead: NDArray[np.int64]) -> NDArray[np.int64]:
        """(T,) places that each token takes on the common line."""
        widths = self.lengths.copy()
        widths[widths == 0] = 1
        widths[self.rows.borders[:-1][lead == 1]] = 0
        widths[self.first[spaces]] -= 1
        return widths


def _same_bytes(
    ours: _Stretches, theirs: _Stretches
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(R,) bool: the rows whose bytes agree; and of each side's stretches: which begin with a prefix space."""
    longer = ours.n_bytes - theirs.n_bytes
    our_spaces, their_spaces = (longer == 1) & ours.begins_with_space(), (longer == -1) & theirs.begins_with_space()
    # A prefix space alone has no text that its token could be joined to.
    fits = (longer == our_spaces.astype(np.int64) - their_spaces) & (
        (longer == 0) | (np.minimum(ours.n_bytes, theirs.n_bytes) > 0)
    )
    same = np.ones(len(ours.rows.borders) - 1, dtype=np.bool_)
    same[ours.rows_of[~fits]] = False
    kept = same[ours.rows_of]
    apart = ours.text_without(our_spaces, kept) != theirs.text_without(their_spaces, kept)
    if apart.any():
        ends = np.cumsum(np.minimum(ours.n_bytes, theirs.n_bytes)[kept])
        same[ours.rows_of[kept][np.searchsorted(ends, np.flatnonzero(apart), side="right")]] = False
    return same, (our_spaces, their_spaces)


def _plans(
    student: Rows,
    teacher: Rows,
    leads: tuple[NDArray[np.int64], NDArray[np.int64]],
    widths: Sequence[NDArray[np.int64]],
) -> list[SpanPlan]:
    """Cut wherever a token ends on both sides. Each row takes as many places on one side as on the other."""
    ends = [np.cumsum(side) for side in widths]
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
    our_leads, their_leads = leads[0].tolist(), leads[1].tolist()
    return [
        SpanPlan(
            ranges[0][low:high],
            ranges[1][low:high],
            n_bytes[low:high],
            left_out[our_leads[row]],
            left_out[their_leads[row]],
        )
        for row, (low, high) in enumerate(itertools.pairwise(borders))
    ]
