"""Check that the teacher's logits fit the student's, for all terms that compare them by id."""

from __future__ import annotations

from distillab.errors import ShapeError, TeacherError
from distillab.objectives.term import StudentScores, TeacherScores
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import NextTokens


def require_fitting(student: StudentScores, signal: TeacherScores | None, *, width: int, term: str) -> NextTokens:
    """Return the teacher's scores, checked against the student's logits.

    Args:
        width: ids 0 … width−1 mean the same to both models.
        term: name of the term, for the message.
    Raises:
        TeacherError: there is none, or it has read other tokens.
        ShapeError: the two have another number of positions, or fewer ids than are shared.
    """
    if signal is None:
        raise TeacherError(f"The term {term} reads the teacher's next-token distribution, and there is none.")
    if isinstance(signal, AlignedTokens):
        raise TeacherError(
            f"The term {term} compares tokens by their ids, and the teacher has read other tokens.",
            fix="vocabulary_projection, or another term that is made for two tokenizers",
        )
    student_shape, teacher_shape = student.logits_NV.shape, (signal.positions, signal.width)
    if student_shape[0] != teacher_shape[0] or min(student_shape[1], teacher_shape[1]) < width:
        raise ShapeError(
            "Teacher and student scores do not fit together.",
            facts=[f"student {tuple(student_shape)}", f"teacher {teacher_shape}", f"shared ids {width}"],
        )
    return signal
