"""The check that a teacher's logits and a student's fit together, shared by all terms that compare them by id."""

from __future__ import annotations

from distillab.errors import ShapeError, TeacherError
from distillab.objectives.term import StudentScores
from distillab.teachers.signals import FullLogits


def require_fitting(student: StudentScores, signal: FullLogits | None, *, width: int, term: str) -> FullLogits:
    """The teacher's logits, checked against the student's.

    Args:
        width: ids 0 … width−1 mean the same on both sides.
        term: who asks, for the message.
    Raises:
        TeacherError: there are no full logits.
        ShapeError: the two have another number of positions, or fewer ids than are shared.
    """
    if signal is None:
        raise TeacherError(f"The term {term} reads full logits, and there are none.")
    ours, theirs = student.logits_NV.shape, signal.logits_NW.shape
    if ours[0] != theirs[0] or min(ours[1], theirs[1]) < width:
        raise ShapeError(
            "Teacher and student scores do not fit together.",
            facts=[f"student {tuple(ours)}", f"teacher {tuple(theirs)}", f"shared ids {width}"],
        )
    return signal
