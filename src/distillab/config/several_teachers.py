"""The settings of several teachers: by a column of the rows, or as a mixture; and of terms that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from distillab.config.methods import Method
from distillab.config.teacher import TeacherConfig

_ROUNDING = 1e-6  # of a sum of weights


class NamedTeacherConfig(TeacherConfig):
    """One of several teachers."""

    weight: float | None = Field(
        default=None, gt=0, lt=1, description="its share of the mixture; none where rows name their teacher"
    )

    @property
    def alone(self) -> TeacherConfig:
        """The same teacher by itself."""
        return TeacherConfig(**self.model_dump(exclude={"weight"}))


Teachers = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], NamedTeacherConfig]
"""Several teachers by their names: each for the rows that name it, or all together with weights."""


def require_teachers(teacher: TeacherConfig | None, teachers: Teachers | None, column: str | None) -> None:
    """Check that a recipe names one teacher, or several in one of the two ways.

    Args:
        column: data.teacher_column.
    Raises:
        ValueError: it does not.
    """
    if teachers is None:
        if column is not None:
            raise ValueError(f"data.teacher_column: {column} has no effect without teachers: {{name: {{…}}, …}}")
        return
    if teacher is not None:
        raise ValueError("teacher and teachers: give one of the two")
    if len(teachers) < 2:
        raise ValueError("teachers names several; of one write teacher: {…}")
    weights = {name: one.weight for name, one in teachers.items() if one.weight is not None}
    if column is not None and weights:
        raise ValueError(
            f"the weight of {', '.join(weights)} has no effect: data.teacher_column ({column}) gives a row one teacher"
        )
    if column is None and len(weights) < len(teachers):
        without = ", ".join(name for name in teachers if name not in weights)
        raise ValueError(
            f"teachers without weight: {without}; give every teacher a weight (a mixture), or name the column that has "
            "each row's teacher as data.teacher_column"
        )
    if column is None and abs(sum(weights.values()) - 1) > _ROUNDING:
        raise ValueError(f"the weights of the teachers must add up to 1, and add up to {sum(weights.values()):g}")


def require_teachers_fit(
    method: Method, teachers: Sequence[TeacherConfig], whose: str, *, mixed: bool, corrected: bool
) -> None:
    """Check that the terms of a method can read its teachers.

    Args:
        whose: the prefix of the message.
        mixed: they are a mixture.
        corrected: the recipe trains its teacher first.
    Raises:
        ValueError: they cannot.
    """
    if any(teacher.prompt_column is not None for teacher in teachers) and method.reads_prompts is not None:
        raise ValueError(
            f"{whose}{method.reads_prompts} compares what both models make of the same prompt, and with prompt_column "
            "the teacher reads another one: leave one of the two out, or use terms on the answer's positions alone"
        )
    if len(teachers) < 2:
        return
    if corrected:
        raise ValueError(f"{whose}teacher_correction trains one teacher; correct each of teachers in a run of its own")
    for term in method.terms:
        if term.tokens == "aligned":
            raise ValueError(
                f"{whose}{term.kind} aligns the tokens of one teacher with the student's: name one teacher"
            )
        if mixed and term.access == "internals":
            raise ValueError(
                f"{whose}{term.kind} reads inside of a teacher, and a mixture of teachers has only a distribution: use "
                "terms on logits, or name each row's teacher by data.teacher_column"
            )
        if term.kind == "attention_maps":
            raise ValueError(f"{whose}attention_maps reads one teacher; use attention_relations, or name one teacher")
    if mixed and method.answers == "teacher":
        raise ValueError(
            f"{whose}a mixture of teachers writes no answers: name each row's teacher by data.teacher_column"
        )
