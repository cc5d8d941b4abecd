"""`dl.prune`: `distillab prune`, for objects in memory too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillab.api.given import Model, Rows
from distillab.api.recipe import RecipeBuilder, Settings, quiet
from distillab.config.run import RunRecipe
from distillab.runs.inputs import load_inputs
from distillab.runs.pruned import keep_student


def prune(
    *,
    teacher: Model,
    train: Rows,
    output: str | Path,
    held_out: Rows | float | None = None,
    keep_layers: int | Sequence[int] | Mapping[str, Any] | None = None,
    mlp: float | None = None,
    heads: float | None = None,
    settings: Settings | None = None,
) -> Path:
    """Make a student of parts of its teacher; return its folder, which `dl.distil` takes as student.

    Called again with the same arguments it gives back what is there.

    Args:
        teacher, train, held_out: as of `dl.distil`. The parts are measured on training rows alone.
        output: the student's folder.
        keep_layers: a number of decoder blocks (by influence), {"count": 12, "by": "uniform"}, or the blocks from 0.
        mlp, heads: share that is kept of the MLP channels, and of the key-value heads with their query heads.
        settings: further ones of a recipe, by their path: {"student.from_teacher.calibration_rows": 128}.
    Raises:
        ConfigError: a setting that does not fit the teacher, a teacher that cannot be pruned, or a folder of
            something else.
        DataError: unreadable rows; or the folder holds another student.
    """
    builder = RecipeBuilder()
    builder.teacher(teacher)
    builder.train(train)
    builder.held_out(held_out)
    layers = list(keep_layers) if isinstance(keep_layers, Sequence) else keep_layers
    arguments = {
        "student.from_teacher.keep_layers": layers,
        "student.from_teacher.mlp": mlp,
        "student.from_teacher.heads": heads,
        "evaluation.generate_rows": 0,  # nothing is evaluated; no held-out row must leave room for an answer
        "output": str(output),
    }
    recipe = builder.build(RunRecipe, arguments, settings, where="dl.prune")
    with builder.held(), quiet():
        keep_student(replace(load_inputs(recipe), made_in=Path(output)))
    return Path(output)
