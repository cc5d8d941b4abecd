"""The teachers of a study that are corrected before its runs, and the study that learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from distillab.config.run import RunRecipe
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.records import RunCost
from distillab.runs.correction import corrected, correction_recipe, cost_of_correction
from distillab.runs.inputs import RunInputs
from distillab.runs.run import execute
from distillab.study.teachers import only_teacher


def correct_teachers(
    recipe: StudyRecipe,
    inputs: Callable[[ArmConfig], RunInputs],
    do: Callable[[Sequence[Callable[[object], object]]], None],
) -> tuple[StudyRecipe, dict[str, RunCost]]:
    """Train the teachers that a study corrects, each once for all arms with the same settings.

    Args:
        inputs: of a run of an arm.
        do: does pieces of work of the study.
    Returns:
        The study whose arms learn from the corrected teachers; path of such a teacher -> what its correction took.
    """
    made = {}
    for arm in recipe.arms:
        if (settings := arm.teacher_correction or recipe.teacher_correction) is not None:
            made[arm.name] = correction_recipe(inputs(arm), settings, Path(recipe.output) / "corrected_teachers")
    each = {one.output: one for one in made.values()}
    do([partial(_correct, correction=one) for one in each.values()])
    spent = {output: cost_of_correction(execute(one)) for output, one in each.items()}
    teachers = {
        arm.name: corrected(only_teacher(recipe, arm), made[arm.name]) for arm in recipe.arms if arm.name in made
    }
    costs = {teacher.source: spent[made[name].output] for name, teacher in teachers.items()}
    arms = [
        arm.model_copy(update={"teacher": teachers.get(arm.name, arm.teacher), "teacher_correction": None})
        for arm in recipe.arms
    ]
    return recipe.model_copy(update={"arms": tuple(arms), "teacher_correction": None}), costs


def _correct(study: object, correction: RunRecipe) -> None:
    """Train one teacher; the record is on the disk afterwards."""
    execute(correction)
