"""Pair the rows of two tokenisations and find their common spans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distillab.alignment.plan import span_numbers
from distillab.alignment.spans import SpanAligner, SpanPlan
from distillab.alignment.tables import TokenTable
from distillab.data.columns import ColumnWriter, mapped_columns
from distillab.data.encoded_rows import PLACES, EncodedRow, EncodedRows, row_keys
from distillab.data.paired import SPAN_DTYPES, PairedRow, PairedRows
from distillab.data.reading import Reader
from distillab.data.store import fingerprint_of, stored
from distillab.errors import DataError
from distillab.files import read_json, write_json
from distillab.progress import Progress
from distillab.records import SpanCounts

_VERSION = 1  # of the alignment: another number where the spans of the same tokens differ
_TOTALS = "totals.json"
_ROWS_AT_ONCE = 512
_COUNTED = (
    "student_tokens",
    "teacher_tokens",
    "student_in_spans",
    "teacher_in_spans",
    "spans",
    "one_to_one",
    "straddling",
)


def span_aligner(student: Reader, teacher: Reader) -> SpanAligner:
    """Return the aligner of two tokenizers; text that a normaliser changed is left out and counted."""
    tables = [TokenTable.of(reader.loaded.meanings) for reader in (student, teacher)]
    return SpanAligner(student=tables[0], teacher=tables[1], differing="leave_out")


def pair_rows(
    student: Sequence[EncodedRow], teacher: Sequence[EncodedRow], *, aligner: SpanAligner, source: str = ""
) -> tuple[PairedRows, SpanCounts]:
    """Pair every student row with the teacher row of the same key.

    The spans of rows that are in the store are stored too, and found again.

    Args:
        student, teacher: rows of the same examples, in any order.
        aligner: `span_aligner` of their tokenizers.
        source: name of the rows, for the counts.
    Raises:
        DataError: no row is left.
    """
    stored_as: str | None = None
    names = [rows.fingerprint if isinstance(rows, EncodedRows) else None for rows in (student, teacher)]
    if None in names:
        with ColumnWriter(SPAN_DTYPES, None) as writer:
            totals = _align_into(writer, student, teacher, aligner)
        columns = writer.in_memory()
    else:

        def fill(folder: Path) -> None:
            with ColumnWriter(SPAN_DTYPES, folder) as writer:
                write_json(folder / _TOTALS, _align_into(writer, student, teacher, aligner))

        folder = stored("spans", fingerprint_of(_VERSION, *names), fill)
        columns, totals, stored_as = mapped_columns(folder, SPAN_DTYPES), read_json(folder / _TOTALS), folder.name
    rows = PairedRows(student, teacher, columns, fingerprint=stored_as)
    if not len(rows):
        raise DataError(
            "No row was read by both tokenizers.",
            facts=[f"student: {len(student)} rows", f"teacher: {len(teacher)} rows"],
        )
    counted = dict(zip(_COUNTED, totals, strict=True))
    return rows, SpanCounts(source=source, rows=len(student), teacher_lacks=len(student) - len(rows), **counted)


def pair_block(
    student: Sequence[EncodedRow], teacher: Sequence[EncodedRow], *, aligner: SpanAligner, source: str
) -> tuple[list[PairedRow], SpanCounts]:
    """Return `pair_rows` of a few rows, of which none need be left; nothing is shown or stored.

    Args:
        teacher: rows of the student's examples, by `encode_block`: their places are those of the student's rows.
    """
    assert isinstance(teacher, EncodedRows)
    places = teacher.columns[PLACES].tolist()
    found, totals = paired([(n, student[n], row) for n, row in zip(places, teacher, strict=True)], aligner=aligner)
    counted = dict(zip(_COUNTED, totals.tolist(), strict=True))
    return found, SpanCounts(source=source, rows=len(student), teacher_lacks=len(student) - len(found), **counted)


def _align_into(
    writer: ColumnWriter, student: Sequence[EncodedRow], teacher: Sequence[EncodedRow], aligner: SpanAligner
) -> list[int]:
    """Append the spans of all pairs; return their counts in the order of `_COUNTED`."""
    by_key = {key: place for place, key in enumerate(row_keys(teacher))}
    places = [(place, by_key[key]) for place, key in enumerate(row_keys(student)) if key in by_key]
    totals = np.zeros(len(_COUNTED), dtype=np.int64)
    with Progress("aligning two tokenisations", total=len(places), unit="rows") as progress:
        for start in range(0, len(places), _ROWS_AT_ONCE):
            some = places[start : start + _ROWS_AT_ONCE]
            rows, counts = paired([(own, student[own], teacher[other]) for own, other in some], aligner=aligner)
            totals += counts
            writer.append(
                {
                    "student_places": [own for own, _ in some],
                    "teacher_places": [other for _, other in some],
                    "student_spans": np.concatenate([row.student_spans for row in rows]),
                    "teacher_spans": np.concatenate([row.teacher_spans for row in rows]),
                }
            )
            progress.advance(len(some))
    return totals.tolist()


def paired(
    pairs: Sequence[tuple[int, EncodedRow, EncodedRow]], *, aligner: SpanAligner
) -> tuple[list[PairedRow], npt.NDArray[np.int64]]:
    """Return rows with their common spans, and their counts in the order of `_COUNTED`.

    Args:
        pairs: index in the split, the student's row, the teacher's.
    """
    found: list[PairedRow] = []
    totals = np.zeros(len(_COUNTED), dtype=np.int64)
    for start in range(0, len(pairs), _ROWS_AT_ONCE):
        some = pairs[start : start + _ROWS_AT_ONCE]
        plans = aligner.rows(
            [student_row.input_ids for _, student_row, _ in some],
            [teacher_row.input_ids for _, _, teacher_row in some],
            student_cut=[student_row.truncated for _, student_row, _ in some],
            teacher_cut=[teacher_row.truncated for _, _, teacher_row in some],
            keys=[student_row.key for _, student_row, _ in some],
        )
        for (index, student_row, teacher_row), plan in zip(some, plans, strict=True):
            row = PairedRow(
                index,
                student_row,
                teacher_row,
                span_numbers(plan.student, len(student_row)),
                span_numbers(plan.teacher, len(teacher_row)),
            )
            found.append(row)
            totals += _counted(row, plan)
    return found, totals


def _counted(row: PairedRow, plan: SpanPlan) -> npt.NDArray[np.int64]:
    """Return the counts of one row, in the order of `_COUNTED`."""
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
