"""The rows that are examined, and what a teacher wrote to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.data.examples import Example
from distillab.data.reading import Reader


@dataclass(frozen=True)
class TeacherText:
    """One answer of a teacher (sequence-level KD).

    Attributes:
        prompt: as in `Example.prompt`.
        text: what the teacher wrote after it.
        finished: it ended by itself; False: it was cut off at the longest length; None: not known.
    """

    prompt: str
    text: str
    finished: bool | None = None


@dataclass(frozen=True, eq=False)
class DataSubject:
    """What the checks of data look at.

    Attributes:
        train: rows to learn from, all of one kind.
        held_out: rows to judge by; none where there is no second part.
        student: encodes as a run does.
        teacher_texts: answers of a teacher, in any order.
    """

    train: Sequence[Example]
    held_out: Sequence[Example]
    student: Reader
    teacher_texts: tuple[TeacherText, ...] = ()
