"""Teacher correction: the recipe that trains a teacher on the training rows, and the teacher that it leaves.

It is a run like any other, whose student is the teacher (Minitron, arXiv:2408.11796).
"""

from __future__ import annotations

from pathlib import Path

from distillab.config.run import RunRecipe
from distillab.config.student import StudentConfig
from distillab.config.teacher import TeacherConfig, TeacherCorrectionConfig
from distillab.errors import ConfigError
from distillab.records import RunCost, RunRecord
from distillab.runs.folder import STUDENT, identity_of
from distillab.runs.inputs import RunInputs


def correction_recipe(inputs: RunInputs, settings: TeacherCorrectionConfig, folder: Path) -> RunRecipe:
    """Return the recipe of SFT of a run's teacher on the run's training rows.

    Its folder is named after the settings, the weights and the rows, so that runs with the same correction share it.

    Args:
        inputs: of the run; the held-out rows are its own.
        folder: that holds the corrected teachers.
    """
    run, spec = inputs.recipe, inputs.require_teacher().spec
    teacher = spec.settings
    recipe = RunRecipe(
        name=f"the correction of {spec.name}",
        student=StudentConfig(
            path=teacher.source,
            tokenizer=teacher.tokenizer,
            revision=teacher.revision,
            adapter=settings.adapter,
        ),
        data=run.data,
        training=settings.training(run.training),
        evaluation=run.evaluation.model_copy(update={"generate_rows": 0, "value_pattern": None}),
        seed=settings.seed,
    )
    files = inputs.fingerprints()
    named = {name: files[name] for name in ("train_rows", "held_out_rows", "teacher")}
    name = f"{spec.name}-corrected-{identity_of(recipe, fingerprints=named)[:6]}".replace(" ", "-")
    return recipe.model_copy(update={"output": str(folder / name)})


def cost_of_correction(correction: RunRecord) -> RunCost:
    """Return what a finished correction took.

    Raises:
        ConfigError: the teacher is worse on the held-out rows than before.
    """
    training = correction.config["training"]
    before, after = (correction.curve[i].held_out_nats_per_token for i in (0, -1))
    if after > before:
        raise ConfigError(
            "Its correction made the teacher worse.",
            where=correction.name,
            facts=[
                f"on the held-out rows of the curve: {before:.3f} nats/token before, {after:.3f} after",
                f"{correction.cost.steps} steps at a learning rate of {training['learning_rate']:g}",
            ],
            fix="lower teacher_correction.learning_rate (by 10 is a good first try), or remove teacher_correction",
        )
    return correction.cost


def corrected(teacher: TeacherConfig, correction: RunRecipe) -> TeacherConfig:
    """Return the teacher with the weights that its correction leaves; they are saved with the teacher's tokenizer."""
    path = str(Path(correction.output) / STUDENT)
    return teacher.model_copy(update={"path": path, "tokenizer": None, "revision": None})


def corrected_recipe(run: RunRecipe, correction: RunRecipe) -> RunRecipe:
    """Return a run's recipe with the corrected teacher."""
    assert run.teacher is not None  # a recipe with a correction has one
    return run.model_copy(update={"teacher": corrected(run.teacher, correction), "teacher_correction": None})
