"""What is known of a pair before it is examined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.doctor.checks import Skipped
from distillab.records import TokenizerContract


@dataclass(frozen=True, eq=False)
class PairSubject:
    """A teacher and a student, and rows of the data on which they meet.

    Attributes:
        contract: what their tokenizers have in common.
        teacher, student: how each of them reads rows; the student's is the one that training uses.
        teacher_model: as training would run it, in its current mode and dtype; None: a cache replaces it,
            or there is nothing to load. What needs it is not examined then.
        student_model: the student before training; None: nothing to load.
        student_is_random: it has not learned anything yet.
        examples: rows; the first that are needed are taken. May be empty.
        compares_by_index: some term compares by id, so that unrelated ids are an error.
    """

    contract: TokenizerContract
    teacher: Reader
    student: Reader
    teacher_model: PreTrainedModel | None
    student_model: PreTrainedModel | None
    student_is_random: bool
    examples: Sequence[Example]
    compares_by_index: bool

    @property
    def same_ids(self) -> bool:
        """Whether equal ids mean the same."""
        return self.contract.verdict != "different"

    @property
    def input_reader(self) -> Reader:
        """The tokenizer of the teacher's input: the student's where the ids are the same."""
        return self.student if self.same_ids else self.teacher

    @property
    def running_teacher(self) -> PreTrainedModel:
        """The teacher, for a check that needs it: the rest of the check is skipped where it cannot run."""
        if self.teacher_model is None or self.lacking_teacher is not None:
            raise Skipped(self.lacking_teacher)
        return self.teacher_model

    @property
    def lacking_teacher(self) -> str | None:
        """Why the teacher cannot run; None where it can."""
        if self.teacher_model is None:
            return "no weights of the teacher were loaded"
        return None if self.examples else "there are no rows for the teacher"
