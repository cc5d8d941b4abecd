"""Count, on the rows of a run, which token the student writes where the teacher writes another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillab.alignment.tables import TokenTable
from distillab.alignment.transport import TransportCounter, TransportCounts
from distillab.data.collation import NO_SPAN
from distillab.data.paired import PairedRow, PairedRows, Spans, span_count
from distillab.data.reading import Reader
from distillab.data.store import fingerprint_of, stored
from distillab.data.vocabularies import Vocabularies
from distillab.progress import Progress

_VERSION = 1  # another number where the same rows give other counts
_FILE = "counts.safetensors"
_ROWS_AT_ONCE = 512


def count_transport(
    rows: Sequence[PairedRow], *, student: Reader, teacher: Reader, vocabularies: Vocabularies
) -> TransportCounts:
    """Count prompts and answers of all rows. Counts of rows that are in the store are stored too, and found again.

    Args:
        student, teacher: the readers that made the rows.
        vocabularies: of both; they give the widths.
    """
    projection = vocabularies.projection
    counter = TransportCounter(
        TokenTable.of(student.loaded.meanings),
        TokenTable.of(teacher.loaded.meanings),
        teacher_width=projection.teacher_width,
        student_width=projection.student_width,
        teacher_fingerprint=projection.teacher_fingerprint,
        student_fingerprint=projection.student_fingerprint,
    )
    name = rows.fingerprint if isinstance(rows, PairedRows) else None
    if name is None:
        return _counted(counter, rows)
    facts = (_VERSION, name, projection.teacher_width, projection.student_width)

    def fill(folder: Path) -> None:
        _counted(counter, rows).save(folder / _FILE)

    return TransportCounts.load(stored("transport", fingerprint_of(*facts), fill) / _FILE)


def _counted(counter: TransportCounter, rows: Sequence[PairedRow]) -> TransportCounts:
    with Progress("counting tokens of two tokenisations", total=len(rows), unit="rows") as progress:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = [rows[place] for place in range(start, min(start + _ROWS_AT_ONCE, len(rows)))]
            before = np.cumsum([0, *map(span_count, some)]).tolist()
            counter.add(
                _joined([(row.student.input_ids, row.student_spans) for row in some], before),
                _joined([(row.teacher.input_ids, row.teacher_spans) for row in some], before),
            )
            progress.advance(len(some))
    return counter.counts()


def _joined(sides: Sequence[tuple[np.ndarray, Spans]], before: Sequence[int]) -> tuple[Spans, Spans]:
    """Return ids and spans of rows, one after the other; the spans of a row follow those of the rows before."""
    spans = [np.where(of == NO_SPAN, NO_SPAN, of + start) for (_, of), start in zip(sides, before, strict=False)]
    return np.concatenate([ids for ids, _ in sides]).astype(np.int64), np.concatenate(spans)
