"""The settings of a student that is made from its teacher: which parts of the teacher are kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillab.config.base import Settings

_OF_THE_TEACHER = ("path", "tokenizer", "revision")
_CALIBRATION = ("calibration_rows", "seed")


Choice = Literal["influence", "contiguous", "uniform"]


class KeptLayers(Settings):
    """How many decoder blocks are kept, and by what they are chosen."""

    count: int = Field(ge=1, description="of decoder blocks")
    by: Choice = Field(
        default="influence",
        description="influence: those that change their input most; contiguous: all but the run of blocks over which "
        "the hidden states change least; uniform: evenly spaced, with the first and the last",
    )


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or value[0] < 0 or any(a >= b for a, b in pairwise(value)):
        raise ValueError("a list of blocks counts from 0, ascends, and names no block twice")
    return value


def _count_alone(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return _ascending(tuple(value)) if all(type(item) is int for item in value) else value
    return {"count": value} if type(value) is int else value


_Written = Annotated[int, Field(ge=1)] | KeptLayers | tuple[int, ...]
KeepLayers = Annotated[KeptLayers | tuple[int, ...], BeforeValidator(_count_alone, json_schema_input_type=_Written)]
"""A number of blocks (by influence), {count, by}, or the list of the blocks, counted from 0."""


class PruningConfig(Settings):
    """What of the teacher is kept; embeddings, norms and head are copied."""

    keep_layers: KeepLayers | None = Field(
        default=None, description="decoder blocks: a number, {count, by}, or a list; default: all"
    )
    mlp: float | None = Field(default=None, gt=0, lt=1, description="share of each MLP's channels; default: all")
    heads: float | None = Field(
        default=None, gt=0, lt=1, description="share of the key-value heads, each with its query heads; default: all"
    )
    calibration_rows: int = Field(
        default=64, ge=1, description="training rows on which the parts of the teacher are measured"
    )
    seed: int = Field(default=0, description="of the choice of these rows")

    @model_validator(mode="after")
    def _prunes_something(self) -> PruningConfig:
        if self.keep_layers is None and not self.width:
            raise ValueError("from_teacher keeps everything: give keep_layers, mlp or heads")
        changed = [n for n in _CALIBRATION if getattr(self, n) != type(self).model_fields[n].default]
        if changed and not self.measures:
            raise ValueError(f"{' and '.join(changed)}: no effect, because nothing is chosen by a measurement")
        return self

    @property
    def width(self) -> bool:
        """Whether MLP channels or heads are dropped."""
        return self.mlp is not None or self.heads is not None

    @property
    def measures(self) -> bool:
        """Whether anything is chosen by what the teacher does on the calibration rows."""
        return self.width or (isinstance(self.keep_layers, KeptLayers) and self.keep_layers.by != "uniform")


def with_source(values: Any) -> Any:
    """Return the values of a recipe, its student with the teacher's folder and tokenizer if it is made from it.

    Raises:
        ValueError: the teacher has no weights, or an adapter on them.
    """
    student, teacher = (values.get(role) for role in ("student", "teacher")) if isinstance(values, dict) else (0, 0)
    if not isinstance(student, dict) or student.get("from_teacher") is None or "path" in student:
        return values
    of_teacher = teacher if isinstance(teacher, dict) else getattr(teacher, "__dict__", {})
    if of_teacher.get("path") is None:
        raise ValueError("student.from_teacher prunes the teacher's weights: add teacher: {path: …}")
    if of_teacher.get("adapter") is not None:
        raise ValueError(
            "student.from_teacher would prune the teacher without its adapter: merge the adapter into the teacher's "
            "weights first, and give their folder as teacher.path"
        )
    taken = {name: of_teacher[name] for name in _OF_THE_TEACHER if of_teacher.get(name) is not None}
    return {**values, "student": {**taken, **student}}
