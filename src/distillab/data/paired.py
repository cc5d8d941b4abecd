"""The same samples in two tokenisations, with the spans of bytes at which both meet.

The spans are found once, when the rows are encoded, so that a batch carries them as numbers: what a term counts is
known before the forward pass, and nothing is searched in a training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from distillab.data.collation import NO_SPAN, Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ShapeError
from distillab.models.batch import TokenBatch

Spans = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PairedRow:
    """One sample, read twice.

    Attributes:
        index: of the student's row in its split.
        student, teacher: the same text by either tokenizer.
        student_spans, teacher_spans: (L,) of each, the number of the span that a token lies in, from 0 in each row; -1
            where it lies in none.
    """

    index: int
    student: EncodedRow
    teacher: EncodedRow
    student_spans: Spans
    teacher_spans: Spans


class PairedDataset(Dataset[PairedRow]):
    """Rows of a split in two tokenisations; it gives what `PairedCollator` takes."""

    def __init__(self, rows: Sequence[PairedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PairedRow:
        return self.rows[index]


class PairedCollator:
    """One batch of the student's tokens that holds the teacher's as well, under `teacher`.

    Args:
        student, teacher: pad or pack either side by itself; where a sample stands in the one says nothing of where it
            stands in the other.
    """

    def __init__(self, student: Collator, teacher: Collator) -> None:
        self.student = student
        self.teacher = teacher

    def __call__(self, rows: Sequence[PairedRow]) -> TokenBatch:
        """The batch; spans are numbered through all of its rows.

        Raises:
            ShapeError: a row has another number of spans on one side than on the other.
            DataError: see `Collator`.
        """
        ours, theirs = [], []
        start = 0
        for row in rows:
            count = span_count(row)
            ours.append(IndexedRow(row.index, row.student, _shifted(row.student_spans, start)))
            theirs.append(IndexedRow(row.index, row.teacher, _shifted(row.teacher_spans, start)))
            start += count + 1  # one number stays free, so that spans of two rows never follow each other
        batch = self.student(ours)
        batch["teacher"] = self.teacher(theirs)
        return batch


def span_count(row: PairedRow) -> int:
    """Spans of a row; both sides have the same.

    Raises:
        ShapeError: they have not.
    """
    ours, theirs = (int(spans.max(initial=NO_SPAN)) + 1 for spans in (row.student_spans, row.teacher_spans))
    if ours != theirs:
        raise ShapeError(
            "The two tokenisations of a row were not aligned with each other.",
            where=f"row with key {row.student.key}",
            facts=[f"spans of the student's tokens: {ours}", f"spans of the teacher's tokens: {theirs}"],
        )
    return ours


def _shifted(spans: Spans, start: int) -> Spans:
    return np.where(spans == NO_SPAN, NO_SPAN, spans + start)
