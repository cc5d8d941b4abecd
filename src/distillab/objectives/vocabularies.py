"""What terms on two tokenisations know of both vocabularies. V student ids, W teacher ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class VocabularyMap(Protocol):
    """Which student token a teacher token means; see `alignment/vocabulary.py`."""

    @property
    def teacher_width(self) -> int:
        """W."""
        ...

    @property
    def student_width(self) -> int:
        """V."""
        ...

    @property
    def common(self) -> tuple[Tensor, Tensor]:
        """(C,) teacher ids and (C,) student ids of the tokens that both have, no id twice."""
        ...

    @property
    def first_ids(self) -> Tensor:
        """(W,) int64, the student token by which a student begins a text that begins with the teacher's; -1: none."""
        ...


@dataclass(frozen=True)
class Vocabularies:
    """Both vocabularies, as far as terms look at them.

    Attributes:
        map: from the teacher's to the student's.
        student_starts: (V,) bool, whether a token begins a new word (or ends the text).
        teacher_starts: (W,) bool, the same.
    """

    map: VocabularyMap
    student_starts: Tensor
    teacher_starts: Tensor
