"""Resolve a cache's settings to the layouts of its kinds, for one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distillab.cache.identity import TeacherSizes
from distillab.cache.kinds import Layout
from distillab.config.cache import KindConfig
from distillab.errors import ConfigError
from distillab.models.structure import ModelShape
from distillab.teachers.signals import SignalRequest
from distillab.teachers.stored import activations, tokens
from distillab.teachers.stored.kind import Sizes, StoredKind
from distillab.teachers.stored.text import TEXT

# in a fixed order, so that the order in a recipe changes no fingerprint
STORED: dict[str, StoredKind[Any, Any, Any]] = {"text": TEXT, **tokens.KINDS, **activations.KINDS}


def teacher_sizes(shape: ModelShape) -> TeacherSizes:
    """Return the sizes of a model as a cache's identity has them."""
    return TeacherSizes(**asdict(shape))


def teacher_shape(sizes: TeacherSizes) -> ModelShape:
    """Return the same back."""
    return ModelShape(**sizes.model_dump())


def resolve_layouts(
    kinds: Sequence[KindConfig], *, shape: ModelShape, dtype: str, width: int, head_inputs: int | None = None
) -> tuple[Layout, ...]:
    """Return the layout of every kind, in the order of `STORED`.

    Args:
        kinds: no kind twice.
        shape: sizes of the teacher.
        dtype: of its activations, as "bfloat16"; in which `exact` ones are stored.
        width: the teacher's distribution is over the ids 0 … width-1.
        head_inputs: numbers that the head reads a position; 0: there is no head; default: the width of the hidden
            states. A few models have a projection between the two.
    Raises:
        ConfigError: a layer or block that the teacher does not have, more kept tokens than there are, a dtype that
            cannot be stored, or a kind that is given twice.
    """
    names = [item.kind for item in kinds]
    if len(set(names)) != len(names):
        raise ConfigError("A cache holds each kind once.", facts=[f"requested: {', '.join(names)}"])
    sizes = Sizes(shape, dtype, width, shape.width if head_inputs is None else head_inputs)
    ordered = sorted(kinds, key=lambda item: [*STORED].index(item.kind))
    return tuple(STORED[item.kind].layout(item, sizes) for item in ordered)


def kinds_for(request: SignalRequest) -> tuple[KindConfig, ...]:
    """Return the kinds that give the same numbers as the teacher itself, or nearly the same.

    If only the k most likely tokens at one temperature are read, only they are kept; the whole distribution is for
    all else.
    """
    alone = tokens.kind_for(request.scores)
    scores: Sequence[KindConfig] = () if not request.scores else [alone] if alone else activations.WHOLE_DISTRIBUTIONS
    return (*scores, *activations.kinds_for(request))
