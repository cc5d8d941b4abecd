"""The plan of a row: the student's and the teacher's token ranges of each common span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distillab.errors import ShapeError


class LeftOut(NamedTuple):
    """Tokens of one row that are in no span, by reason.

    Args:
        one_sided: special tokens (or a prefix space that is a token by itself) that the other row does not have, and
            tokens inside of which the other row has one.
        differing: a normaliser changed the bytes, or they are `unk`.
        cut: behind the end of the other row, which was truncated.
    """

    one_sided: int = 0
    differing: int = 0
    cut: int = 0


_NOTHING = LeftOut()


@dataclass(frozen=True, eq=False)
class SpanPlan:
    """S minimal spans of one row, in the order of the text.

    Attributes:
        student: (S, 2) int32, half-open range of student tokens of each span; never empty.
        teacher: (S, 2) int32, the same of the teacher.
        n_bytes: (S,) int32, bytes of the span's text; 0 where the span is a pair of special tokens.
        student_left_out: the student's tokens that are in no span.
        teacher_left_out: the teacher's.
    """

    student: NDArray[np.int32]
    teacher: NDArray[np.int32]
    n_bytes: NDArray[np.int32]
    student_left_out: LeftOut = _NOTHING
    teacher_left_out: LeftOut = _NOTHING

    def __len__(self) -> int:
        return len(self.n_bytes)

    def swapped(self) -> SpanPlan:
        """Return the plan with student and teacher exchanged."""
        return SpanPlan(self.teacher, self.student, self.n_bytes, self.teacher_left_out, self.student_left_out)


def span_numbers(ranges: NDArray[np.int32], tokens: int) -> NDArray[np.int64]:
    """Return (tokens,) the index of the span of each token of a row; -1: none.

    Args:
        ranges: `SpanPlan.student` or `SpanPlan.teacher`.
    """
    numbers = np.full(tokens, -1, dtype=np.int64)
    lengths = ranges[:, 1] - ranges[:, 0]
    spans = np.repeat(np.arange(len(ranges)), lengths)
    places = np.arange(len(spans)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(ranges[:, 0], lengths)
    numbers[places] = spans
    return numbers


class AnswerSpans(NamedTuple):
    """The spans of a plan that a loss can use.

    Args:
        plan: the spans whose tokens are all scored, in both rows.
        straddling: spans that have scored tokens and others; they are not in `plan`.
    """

    plan: SpanPlan
    straddling: int


def answer_spans(plan: SpanPlan, *, student_mask: NDArray[np.bool_], teacher_mask: NDArray[np.bool_]) -> AnswerSpans:
    """Keep the spans that lie wholly in the answer in both rows.

    `student_left_out` and `teacher_left_out` still count the tokens of the whole row.

    Args:
        student_mask: (L,) bool, `EncodedRow.answer_mask`: True where the token is scored.
        teacher_mask: (M,) bool, the same of the teacher's row.
    Raises:
        ShapeError: a mask is shorter than the row that the plan was made for.
    """
    student, student_lengths = _scored(plan.student, student_mask, "student_mask")
    teacher, teacher_lengths = _scored(plan.teacher, teacher_mask, "teacher_mask")
    whole = (student == student_lengths) & (teacher == teacher_lengths)
    kept = SpanPlan(
        plan.student[whole], plan.teacher[whole], plan.n_bytes[whole], plan.student_left_out, plan.teacher_left_out
    )
    return AnswerSpans(kept, int(((student + teacher > 0) & ~whole).sum()))


def _scored(
    ranges: NDArray[np.int32], mask: NDArray[np.bool_], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many tokens of each range are scored, and how many it has."""
    end = int(ranges[-1, 1]) if len(ranges) else 0
    if mask.ndim != 1 or len(mask) < end:
        raise ShapeError(
            "A mask has one entry a token of the row.",
            facts=[f"{name}: {mask.shape}", f"the last span ends at token {end}"],
        )
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(mask, dtype=np.int64)])
    return before[ranges[:, 1]] - before[ranges[:, 0]], (ranges[:, 1] - ranges[:, 0]).astype(np.int64)
