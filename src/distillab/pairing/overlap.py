"""Measure in bytes how far two tokenisations of one data set agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.token_bytes import byte_spans
from distillab.records import DataOverlap

MAX_TEXTS = 2_000


@dataclass(frozen=True)
class _Row:
    """One text in one tokenizer; `known` is False if it holds an `unk`."""

    ids: list[int]
    text: bytes
    spans: NDArray[np.int64]
    known: bool


def data_overlap(teacher: LoadedTokenizer, student: LoadedTokenizer, texts: Sequence[str], source: str) -> DataOverlap:
    """Count the tokens and boundaries that two tokenizers share on the first 2,000 texts, without special tokens.

    A boundary is a byte position inside a row at which a token ends. A space that only one tokenizer puts in front of
    a text is ignored. Rows whose bytes differ otherwise (a normaliser), or that hold an `unk`, are counted in
    `rows_not_comparable`; their tokens count in the totals and in `teacher_tokens_known` and `equal_ids_by_position`,
    not in the other shares. A share of nothing is 1.

    Args:
        texts: texts of the rows; empty ones are skipped.
        source: name of the texts in the record.
    """
    texts = [text for text in texts[:MAX_TEXTS] if text]
    rows = zip(_rows(teacher, texts), _rows(student, texts), strict=True)
    student_strings = {meaning.data for meaning in student.meanings if meaning.kind in ("text", "byte")}
    known = [meaning.kind in ("text", "byte") and meaning.data in student_strings for meaning in teacher.meanings]
    not_comparable = teacher_tokens = student_tokens = known_tokens = positions = equal_positions = 0
    boundaries, tokens = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)  # teacher's, student's, shared
    for teacher_row, student_row in rows:
        teacher_tokens += len(teacher_row.ids)
        student_tokens += len(student_row.ids)
        known_tokens += sum(known[id_] for id_ in teacher_row.ids)
        positions += min(len(teacher_row.ids), len(student_row.ids))
        equal_positions += sum(a == b for a, b in zip(teacher_row.ids, student_row.ids, strict=False))
        shift = _front_space(teacher_row.text, student_row.text) if teacher_row.known and student_row.known else None
        if shift is None:
            not_comparable += 1
            continue
        teacher_spans, student_spans = _shifted(teacher_row.spans, shift[0]), _shifted(student_row.spans, shift[1])
        end = len(teacher_row.text) - shift[0]
        boundaries += _common(_inner_ends(teacher_spans, end), _inner_ends(student_spans, end))
        tokens += _common(_keys(teacher_spans, end), _keys(student_spans, end))
    return DataOverlap(
        source=source,
        rows=len(texts),
        rows_not_comparable=not_comparable,
        teacher_tokens=teacher_tokens,
        student_tokens=student_tokens,
        teacher_boundaries_shared=_share(boundaries[2], boundaries[0]),
        student_boundaries_shared=_share(boundaries[2], boundaries[1]),
        teacher_tokens_identical=_share(tokens[2], tokens[0]),
        student_tokens_identical=_share(tokens[2], tokens[1]),
        teacher_tokens_known=_share(known_tokens, teacher_tokens),
        equal_ids_by_position=_share(equal_positions, positions),
    )


def _rows(loaded: LoadedTokenizer, texts: Sequence[str]) -> list[_Row]:
    if not texts:
        return []
    meanings, unknown = loaded.meanings, loaded.tokenizer.unk_token_id
    encoded: list[list[int]] = loaded.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [
        _Row(
            ids,
            b"".join(meanings[i].data for i in ids if meanings[i].kind in ("text", "byte")),
            byte_spans(ids, meanings),
            unknown is None or unknown not in ids,
        )
        for ids in encoded
    ]


def _front_space(teacher: bytes, student: bytes) -> tuple[int, int] | None:
    """Return the bytes to remove from the front of each text to make them equal; None if they stay different."""
    if teacher == student:
        return 0, 0
    if teacher == b" " + student:
        return 1, 0
    if student == b" " + teacher:
        return 0, 1
    return None


def _shifted(spans: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    moved: NDArray[np.int64] = np.maximum(spans - by, 0)
    return moved[moved[:, 0] < moved[:, 1]]


def _inner_ends(spans: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    ends = spans[:, 1]
    return ends[ends < end]


def _keys(spans: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Encode each span as one number, so that equal spans are equal numbers."""
    keys: NDArray[np.int64] = spans[:, 0] * (end + 1) + spans[:, 1]
    return keys


def _common(teacher: NDArray[np.int64], student: NDArray[np.int64]) -> NDArray[np.int64]:
    shared = np.intersect1d(teacher, student, assume_unique=True)
    return np.array([len(teacher), len(student), len(shared)], dtype=np.int64)


def _share(part: np.int64 | int, whole: np.int64 | int) -> float:
    return float(part) / float(whole) if whole else 1.0
