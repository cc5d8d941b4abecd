"""Find the spans of bytes that two tokenisations of one text have in common.

    student   |The| qu|ick| fox|        spans   The · quick · fox
    teacher   |The|quick|  fox|

A span begins and ends where a token of both rows begins and ends, and no such place is inside of it: it is minimal.
Bytes are compared, so a character that one tokenizer cuts into bytes, or a token that holds half of one, is no special
case.

What is not the same text in both rows:

* special tokens that match (the same content, or one of the roles bos, eos, sep, cls, mask): one span, of 0 bytes;
* a special token in one row only: left out and counted. If the texts do not agree then, its content is compared with
  the other row's text (a special token of a chat template that the other tokenizer spells in pieces);
* one space in front of a text in one row only (SentencePiece's prefix): no difference; a token of that space alone
  belongs to the span that follows it;
* bytes that a normaliser changed: an error, or left out and counted (`differing="leave_out"`): what agrees before and
  behind them, to the next special token of both rows, is kept;
* `unk`: its bytes are not known, so what is between the texts before and behind it is left out and counted;
* the end of a row that was truncated: the other row's tokens behind it are left out and counted.

Time and memory grow with the tokens. Rows come in lists: thousands of tokens at a time are fast, single rows are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.batched import Rows, align_usual
from distillab.alignment.plan import AnswerSpans, LeftOut, SpanPlan, answer_spans
from distillab.alignment.regions import Difference
from distillab.alignment.tables import UNUSED, TokenTable, match_special_tokens
from distillab.alignment.walk import walk_row
from distillab.errors import DataError, ShapeError

__all__ = ["AnswerSpans", "LeftOut", "SpanAligner", "SpanPlan", "answer_spans"]


class SpanAligner:
    """Align rows of two tokenizers. It holds arrays only, so it can be sent to worker processes.

    Args:
        student: the student's tokens.
        teacher: the teacher's tokens.
        differing: what to do where the bytes differ (the texts are not the same, or a normaliser changes one):
            `refuse`, an error, or `leave_out`, leave those places out and count them.
    """

    def __init__(
        self, *, student: TokenTable, teacher: TokenTable, differing: Literal["refuse", "leave_out"] = "refuse"
    ) -> None:
        self.student, self.teacher, self.differing = student, teacher, differing
        self._pairs = match_special_tokens(student, teacher)

    def rows(
        self,
        student: Sequence[NDArray[np.int32]],
        teacher: Sequence[NDArray[np.int32]],
        *,
        student_cut: Sequence[bool] | None = None,
        teacher_cut: Sequence[bool] | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[SpanPlan]:
        """Return one plan a row.

        Args:
            student: R rows of ids, (L,) each.
            teacher: the same R texts, (M,) each.
            student_cut: which rows end before the text does (`EncodedRow.truncated`); None: none does.
            teacher_cut: the same of the teacher's rows.
            keys: names of the rows, for messages.
        Raises:
            ShapeError: the numbers of rows, flags or keys differ.
            DataError: an id is no token of its tokenizer, or the bytes of a row differ under `differing="refuse"`.
        """
        size = len(student)
        for name, given in (("teacher", teacher), ("student_cut", student_cut), ("teacher_cut", teacher_cut)):
            _require_length(name, given, size)
        _require_length("keys", keys, size)
        cuts = [
            np.zeros(size, dtype=np.bool_) if cut is None else np.asarray(cut) for cut in (student_cut, teacher_cut)
        ]
        student_rows, teacher_rows = Rows.of(student, self.student), Rows.of(teacher, self.teacher)
        _require_meanings(student_rows, "student", keys)
        _require_meanings(teacher_rows, "teacher", keys)
        found, usual = align_usual(student_rows, teacher_rows, self._pairs)
        plans = iter(found)
        return [
            next(plans)
            if usual[row]
            else self._walked(student_rows, teacher_rows, row, bool(cuts[0][row]), bool(cuts[1][row]), keys)
            for row in range(size)
        ]

    def row(
        self,
        student: NDArray[np.int32],
        teacher: NDArray[np.int32],
        *,
        student_cut: bool = False,
        teacher_cut: bool = False,
    ) -> SpanPlan:
        """Return the plan of one row; see `rows`."""
        return self.rows([student], [teacher], student_cut=[student_cut], teacher_cut=[teacher_cut])[0]

    def _walked(
        self,
        student: Rows,
        teacher: Rows,
        row: int,
        student_cut: bool,
        teacher_cut: bool,
        keys: Sequence[str] | None,
    ) -> SpanPlan:
        plan, difference = walk_row(
            student.row(row),
            teacher.row(row),
            self.student,
            self.teacher,
            self._pairs,
            student_cut=student_cut,
            teacher_cut=teacher_cut,
        )
        if difference is not None and self.differing == "refuse":
            raise _two_texts(difference, _name(row, keys))
        return plan


def _require_length(name: str, given: Sequence[object] | None, size: int) -> None:
    if given is not None and len(given) != size:
        raise ShapeError(
            "Student and teacher have the same rows.", facts=[f"student: {size} rows", f"{name}: {len(given)}"]
        )


def _require_meanings(rows: Rows, who: str, keys: Sequence[str] | None) -> None:
    outside = (rows.ids < 0) | (rows.ids >= len(rows.table))
    if outside.any():
        wrong = int(np.argmax(outside))
    else:
        unused = rows.table.kinds[rows.ids] == UNUSED
        if not unused.any():
            return
        wrong = int(np.argmax(unused))
    row = int(np.searchsorted(rows.borders, wrong, side="right")) - 1
    raise DataError(
        "Every id of a row is a token of its tokenizer.",
        where=_name(row, keys),
        facts=[f"{who}: id {rows.ids[wrong]} at token {wrong - rows.borders[row]}, of {len(rows.table)} ids"],
        fix="align rows with the tokenizers that made them; are student and teacher exchanged?",
    )


def _name(row: int, keys: Sequence[str] | None) -> str:
    return f"row {row}" if keys is None else f"row {keys[row]}"


def _two_texts(difference: Difference, where: str) -> DataError:
    before = f"{difference.before!r} " if difference.before else ""
    return DataError(
        "The two rows do not spell the same bytes.",
        where=f"{where}, after {difference.place} bytes and special tokens that agree",
        facts=[
            f"student: {before}then {difference.student!r}",
            f"teacher: {before}then {difference.teacher!r}",
        ],
        fix='give student and teacher the same text; if a tokenizer\'s normaliser changes it, differing="leave_out"',
    )
