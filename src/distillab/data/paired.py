"""Rows in two tokenisations with their common spans, and the collator that batches both.

Spans are found once, when the rows are encoded, and batched as indices: counts are known before the forward pass, and a
training step searches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from distillab.data.collation import NO_SPAN, Collator, IndexedRow
from distillab.data.columns import Columns, Dtypes, MadeWhenRead
from distillab.data.encoded_rows import EncodedRow, row_lengths
from distillab.errors import ShapeError
from distillab.models.aligned_positions import align_batch
from distillab.models.batch import TokenBatch

Spans = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PairedRow:
    """One sample in both tokenisations.

    Attributes:
        index: of the student's row in its split.
        student, teacher: the same text in the two tokenizers.
        student_spans, teacher_spans: (L,) each, the index of a token's span, from 0 in each row; -1: none.
    """

    index: int
    student: EncodedRow
    teacher: EncodedRow
    student_spans: Spans
    teacher_spans: Spans


SPAN_DTYPES: Dtypes = {
    "student_places": np.int64,
    "teacher_places": np.int64,
    "student_spans": np.int32,
    "teacher_spans": np.int32,
}


class PairedRows(MadeWhenRead[PairedRow]):
    """Rows in both tokenisations over flat arrays; a row is made when it is asked for.

    Args:
        student, teacher: all rows of each.
        columns: see `SPAN_DTYPES`: the place of each pair among both, and the span of each token of its rows.
        fingerprint: their name in the store; None: they are not stored.

    Attributes:
        indexes: (N,) `PairedRow.index` of each.
        lengths: (N,) int64, the student's tokens of each.
    """

    def __init__(
        self,
        student: Sequence[EncodedRow],
        teacher: Sequence[EncodedRow],
        columns: Columns,
        *,
        fingerprint: str | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self._student, self._teacher, self._columns = student, teacher, columns
        self.indexes = columns["student_places"]
        self.lengths = row_lengths(student)[self.indexes]
        self._ends = np.cumsum(self.lengths), np.cumsum(row_lengths(teacher)[columns["teacher_places"]])

    def __len__(self) -> int:
        return len(self.indexes)

    def _at_place(self, place: int) -> PairedRow:
        index, of_teacher = int(self.indexes[place]), int(self._columns["teacher_places"][place])
        rows = self._student[index], self._teacher[of_teacher]
        spans = [
            self._columns[name][ends[place] - len(row) : ends[place]].astype(np.int64)
            for name, ends, row in zip(("student_spans", "teacher_spans"), self._ends, rows, strict=True)
        ]
        return PairedRow(index, *rows, *spans)


class PairedDataset(Dataset[PairedRow]):
    """A split in two tokenisations as a torch data set, for `PairedCollator`."""

    def __init__(self, rows: Sequence[PairedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PairedRow:
        return self.rows[index]


class PairedCollator:
    """Collate the student's tokens into a batch that holds the teacher's batch under `teacher`.

    Args:
        student, teacher: collators that pad or pack independently of each other.
    """

    def __init__(self, student: Collator, teacher: Collator) -> None:
        self.student = student
        self.teacher = teacher

    def __call__(self, rows: Sequence[PairedRow]) -> TokenBatch:
        """Return the batch; span indices count through all of its rows.

        Raises:
            ShapeError: student and teacher tokens of a row have different numbers of spans.
            DataError: see `Collator`.
        """
        student_rows, teacher_rows = [], []
        start = 0
        for row in rows:
            count = span_count(row)
            student_rows.append(IndexedRow(row.index, row.student, _shifted(row.student_spans, start)))
            teacher_rows.append(IndexedRow(row.index, row.teacher, _shifted(row.teacher_spans, start)))
            start += count + 1  # one number stays free, so that spans of two rows never follow each other
        batch = self.student(student_rows)
        batch["teacher"] = self.teacher(teacher_rows)
        batch["alignment"] = align_batch(batch, batch["teacher"])
        return batch


def span_count(row: PairedRow) -> int:
    """Return the number of spans of a row.

    Raises:
        ShapeError: it differs between student and teacher.
    """
    in_student, in_teacher = (int(spans.max(initial=NO_SPAN)) + 1 for spans in (row.student_spans, row.teacher_spans))
    if in_student != in_teacher:
        raise ShapeError(
            "The two tokenisations of a row were not aligned with each other.",
            where=f"row with key {row.student.key}",
            facts=[f"spans of the student's tokens: {in_student}", f"spans of the teacher's tokens: {in_teacher}"],
        )
    return in_student


def _shifted(spans: Spans, start: int) -> Spans:
    return np.where(spans == NO_SPAN, NO_SPAN, spans + start)
