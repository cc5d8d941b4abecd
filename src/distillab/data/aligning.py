"""Rows in two tokenisations -> paired rows, with the spans that both share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distillab.alignment.spans import SpanAligner, SpanPlan
from distillab.alignment.tables import TokenTable
from distillab.data.collation import NO_SPAN
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedRow
from distillab.data.reading import Reader
from distillab.errors import DataError
from distillab.pairing.token_bytes import token_meanings

_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class PairingCounts:
    """What became of the rows and tokens of a split that two tokenizers read.

    Attributes:
        rows: rows that the student keeps.
        teacher_lacks: of these, rows that the teacher's tokenizer had no room for.
        student_tokens, teacher_tokens: answer tokens of either side.
        student_in_spans, teacher_in_spans: those of them that lie in a span that both sides score.
        spans: such spans.
        one_to_one: spans that are one token on both sides.
        straddling: spans with scored tokens and others, which no loss uses.
    """

    rows: int
    teacher_lacks: int
    student_tokens: int
    teacher_tokens: int
    student_in_spans: int
    teacher_in_spans: int
    spans: int
    one_to_one: int
    straddling: int


def span_aligner(student: Reader, teacher: Reader) -> SpanAligner:
    """The aligner of two readers' tokenizers; places where a normaliser changed the text are left out and counted."""
    tables = [TokenTable.of(token_meanings(reader.tokenizer)) for reader in (student, teacher)]
    return SpanAligner(student=tables[0], teacher=tables[1], differing="leave_out")


def pair_rows(
    student: Sequence[EncodedRow], teacher: Sequence[EncodedRow], *, aligner: SpanAligner
) -> tuple[list[PairedRow], PairingCounts]:
    """Every row of the student's that the teacher has too, found by its key.

    Args:
        student, teacher: rows of the same examples; their order need not be the same.
    Raises:
        DataError: no row is left.
    """
    by_key = {row.key: row for row in teacher}
    pairs = [(index, row, by_key[row.key]) for index, row in enumerate(student) if row.key in by_key]
    if not pairs:
        raise DataError(
            "No row was read by both tokenizers.",
            facts=[f"student: {len(student)} rows", f"teacher: {len(teacher)} rows"],
        )
    found: list[PairedRow] = []
    totals = np.zeros(7, dtype=np.int64)
    for start in range(0, len(pairs), _ROWS_AT_ONCE):
        some = pairs[start : start + _ROWS_AT_ONCE]
        plans = aligner.rows(
            [ours.input_ids for _, ours, _ in some],
            [theirs.input_ids for _, _, theirs in some],
            student_cut=[ours.truncated for _, ours, _ in some],
            teacher_cut=[theirs.truncated for _, _, theirs in some],
            keys=[ours.key for _, ours, _ in some],
        )
        for (index, ours, theirs), plan in zip(some, plans, strict=True):
            row = PairedRow(index, ours, theirs, _numbers(plan.student, len(ours)), _numbers(plan.teacher, len(theirs)))
            found.append(row)
            totals += _counted(row, plan)
    counts = PairingCounts(len(student), len(student) - len(pairs), *totals.tolist())
    return found, counts


def _numbers(ranges: npt.NDArray[np.int32], tokens: int) -> npt.NDArray[np.int64]:
    """(tokens,) the number of the span that each lies in."""
    numbers = np.full(tokens, NO_SPAN, dtype=np.int64)
    lengths = ranges[:, 1] - ranges[:, 0]
    spans = np.repeat(np.arange(len(ranges)), lengths)
    places = np.arange(len(spans)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(ranges[:, 0], lengths)
    numbers[places] = spans
    return numbers


def _counted(row: PairedRow, plan: SpanPlan) -> npt.NDArray[np.int64]:
    """The fields of `PairingCounts` from student_tokens on, of one row."""
    scored = []
    for numbers, mask in ((row.student_spans, row.student.answer_mask), (row.teacher_spans, row.teacher.answer_mask)):
        inside = numbers >= 0
        scored.append(np.bincount(numbers[inside], weights=mask[inside], minlength=len(plan)).astype(np.int64))
    lengths = [np.diff(ranges, axis=1)[:, 0] for ranges in (plan.student, plan.teacher)]
    whole = (scored[0] == lengths[0]) & (scored[1] == lengths[1])
    any_scored = (scored[0] + scored[1]) > 0
    return np.array(
        [
            row.student.answer_mask.sum(),
            row.teacher.answer_mask.sum(),
            lengths[0][whole].sum(),
            lengths[1][whole].sum(),
            whole.sum(),
            (whole & (lengths[0] == 1) & (lengths[1] == 1)).sum(),
            (any_scored & ~whole).sum(),
        ]
    )
