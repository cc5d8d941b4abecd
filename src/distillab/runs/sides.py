"""Whose tokens a teacher is asked about: the student's, or, with two tokenisations of the text, its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.models import RunRecipe
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.reading import Reader
from distillab.runs.inputs import RunInputs, vocab_size


@dataclass(frozen=True, eq=False)
class Side:
    """One way to read the rows.

    Attributes:
        reader: the tokenizer that makes the teacher's input.
        fingerprint: of that tokenizer.
        width: ids that are read of the teacher's distributions.
    """

    reader: Reader
    fingerprint: str
    width: int


def uses_teacher_tokenizer(recipe: RunRecipe) -> bool:
    """Whether the teacher is asked about its own tokens, which the terms align with the student's."""
    return recipe.resolved().tokens == "aligned"


def asked_side(recipe: RunRecipe, inputs: RunInputs) -> Side:
    """How the teacher reads the training rows of a recipe."""
    contract, teacher = inputs.contract, inputs.teacher
    assert contract is not None  # there is a teacher, so the pair was judged
    assert teacher is not None
    if uses_teacher_tokenizer(recipe):
        return Side(teacher, contract.teacher.fingerprint, vocab_size(contract.teacher))
    return Side(inputs.student, contract.student.fingerprint, inputs.compared_width(recipe))


def judging_side(inputs: RunInputs) -> Side:
    """How the teacher reads the held-out rows by which students are judged."""
    assert inputs.contract is not None
    return Side(inputs.student, inputs.contract.student.fingerprint, inputs.shared_width)


def asked_rows(recipe: RunRecipe, inputs: RunInputs, split: EncodedSplit) -> Sequence[EncodedRow]:
    """The rows of a split as the teacher reads them; with two tokenisations those that it has room for."""
    return inputs.teacher_split(split).rows if uses_teacher_tokenizer(recipe) else split.rows
