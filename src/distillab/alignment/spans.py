"""From two tokenisations of one text to the spans of bytes that they share.

    student   |The| qu|ick| fox|        spans   The · quick · fox
    teacher   |The|quick|  fox|

A span begins and ends where tokens of both sides do, and no such place is inside of it: it is minimal. Bytes are
compared, so a character that one side cuts into bytes, or a token that holds half of one, is no special case.

What becomes of what is not text on both sides:

* special tokens that mean the same (content, or the roles bos, eos, sep, cls, mask): a span of their own, of 0 bytes;
* a special token of one side only: left out and counted; where the texts do not agree so, it is compared by its content
  with what the other side spells (a chat marker that one tokenizer knows and the other does not);
* one space in front of a text on one side only (SentencePiece's prefix): no difference; a token of that space alone
  belongs to the span that follows it;
* bytes that a normaliser changed: an error, or left out and counted (`differing="leave_out"`): what agrees before and
  behind them, to the next special token of both, is kept;
* `unk`: it hides bytes, so what is between the texts before and behind it is left out and counted;
* the end of a row that was cut: the other side's tokens behind it are left out and counted.

Time and memory grow with the tokens. Rows come in lists: thousands of tokens at a time are fast, single rows are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillab.alignment.batched import Rows, align_usual
from distillab.alignment.plan import AnswerSpans, LeftOut, SpanPlan, answer_spans
from distillab.alignment.tables import UNUSED, TokenTable, pairing_markers
from distillab.alignment.walk import Difference, walk_row
from distillab.errors import DataError, ShapeError

__all__ = ["AnswerSpans", "LeftOut", "SpanAligner", "SpanPlan", "answer_spans"]


class SpanAligner:
    """Aligns rows of two tokenizers. It holds arrays only, so worker processes can be given it.

    Args:
        student: the student's tokens.
        teacher: the teacher's.
        differing: what to do where the bytes of the two sides differ: `refuse` (they are two texts, or a normaliser
            changes one), or `leave_out` those places and count them.
    """

    def __init__(
        self, *, student: TokenTable, teacher: TokenTable, differing: Literal["refuse", "leave_out"] = "refuse"
    ) -> None:
        self.student, self.teacher, self.differing = student, teacher, differing
        self._pairs = pairing_markers(student, teacher)

    def rows(
        self,
        student: Sequence[NDArray[np.int32]],
        teacher: Sequence[NDArray[np.int32]],
        *,
        student_cut: Sequence[bool] | None = None,
        teacher_cut: Sequence[bool] | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[SpanPlan]:
        """One plan a row.

        Args:
            student: R rows of ids, (L,) each.
            teacher: the same R texts, (M,) each.
            student_cut: which rows end before the text does (`EncodedRow.truncated`); None: none does.
            teacher_cut: the same of the teacher's rows.
            keys: names of the rows, for messages.
        Raises:
            ShapeError: not as many rows, flags or keys on both sides.
            DataError: an id means nothing, or the bytes of a row differ and are not to be left out.
        """
        size = len(student)
        for name, given in (("teacher", teacher), ("student_cut", student_cut), ("teacher_cut", teacher_cut)):
            _require_length(name, given, size)
        _require_length("keys", keys, size)
        cuts = [
            np.zeros(size, dtype=np.bool_) if cut is None else np.asarray(cut) for cut in (student_cut, teacher_cut)
        ]
        ours, theirs = Rows.of(student, self.student), Rows.of(teacher, self.teacher)
        _require_meanings(ours, "student", keys)
        _require_meanings(theirs, "teacher", keys)
        found, usual = align_usual(ours, theirs, self._pairs)
        plans = iter(found)
        return [
            next(plans) if usual[row] else self._walked(ours, theirs, row, bool(cuts[0][row]), bool(cuts[1][row]), keys)
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
        """The plan of one row; see `rows`."""
        return self.rows([student], [teacher], student_cut=[student_cut], teacher_cut=[teacher_cut])[0]

    def _walked(
        self, ours: Rows, theirs: Rows, row: int, our_cut: bool, their_cut: bool, keys: Sequence[str] | None
    ) -> SpanPlan:
        plan, difference = walk_row(
            ours.row(row),
            theirs.row(row),
            self.student,
            self.teacher,
            self._pairs,
            student_cut=our_cut,
            teacher_cut=their_cut,
        )
        if difference is not None and self.differing == "refuse":
            raise _two_texts(difference, _name(row, keys))
        return plan


def _require_length(name: str, given: Sequence[object] | None, size: int) -> None:
    if given is not None and len(given) != size:
        raise ShapeError("Both sides have the same rows.", facts=[f"student: {size} rows", f"{name}: {len(given)}"])


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
        "Every id of a row is a token of the side's tokenizer.",
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
        fix='give both sides the same text; where a tokenizer\'s normaliser changes it, differing="leave_out"',
    )
