"""Whose tokens a teacher is asked about: the student's, or, with two tokenisations of the text, its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.models import RunRecipe
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.reading import Reader
from distillab.study.prepare import Prepared, own_width


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


def reads_own_tokens(recipe: RunRecipe) -> bool:
    """Whether the teacher is asked about its own tokens, which the terms align with the student's."""
    return recipe.resolved().tokens == "aligned"


def asked_side(recipe: RunRecipe, prepared: Prepared) -> Side:
    """How the teacher reads the training rows of a recipe."""
    contract, teacher = prepared.contract, prepared.teacher
    assert contract is not None  # there is a teacher, so the pair was judged
    assert teacher is not None
    if reads_own_tokens(recipe):
        return Side(teacher, contract.teacher.fingerprint, own_width(contract.teacher))
    return Side(prepared.student, contract.student.fingerprint, prepared.compared_width(recipe))


def judging_side(prepared: Prepared) -> Side:
    """How the teacher reads the held-out rows by which students are judged."""
    assert prepared.contract is not None
    return Side(prepared.student, prepared.contract.student.fingerprint, prepared.shared_width)


def asked_rows(recipe: RunRecipe, prepared: Prepared, split: EncodedSplit) -> Sequence[EncodedRow]:
    """The rows of a split as the teacher reads them; with two tokenisations those that it has room for."""
    return prepared.teacher_split(split).rows if reads_own_tokens(recipe) else split.rows
