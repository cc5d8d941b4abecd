"""`dl.distil`: `distillab train`, for objects in memory too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distillab.api.given import Model, Rows, Teacher
from distillab.api.recipe import RecipeBuilder, Settings, quiet, terms_of
from distillab.cli.console import show_run
from distillab.config.run import RunRecipe
from distillab.config.term_base import BaseTermConfig
from distillab.errors import ConfigError
from distillab.files import read_json_lines
from distillab.models.adapters import load_adapter
from distillab.models.loading import load_model, pick_device
from distillab.pairing.loading import load_tokenizer
from distillab.records import EvaluationRecord, RunRecord
from distillab.runs.folder import identity_of
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        recipe: the recipe, as for `distillab train`.
        record: `run.json`.
    """

    recipe: RunRecipe
    record: RunRecord

    @property
    def folder(self) -> Path:
        """Where it is kept: recipe, metrics, student, record."""
        return Path(self.recipe.output)

    @cached_property
    def student(self) -> PreTrainedModel:
        """The trained student, as it was evaluated and saved: the weights of `folder/student`, in eval mode."""
        settings = self.recipe.student
        device = pick_device(self.recipe.training.device)
        path, adapter, revision = str(self.folder / "student"), None, None
        if settings.save_as == "adapter":
            path, adapter, revision = settings.path, self.folder / "student", settings.revision
        quantization = settings.quantization if adapter else None
        with quiet():
            model = load_model(
                path, dtype=settings.dtype, device=device, revision=revision, role="student", quantization=quantization
            )
            return model if adapter is None else load_adapter(model, adapter, error=ConfigError)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer, with the chat template."""
        return load_tokenizer(str(self.folder / "student")).tokenizer

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict for each optimizer step and each point of the learning curve, as `metrics.jsonl` has them."""
        return read_json_lines(self.folder / "metrics.jsonl")

    @property
    def evaluation(self) -> EvaluationRecord:
        """The figures on the held-out rows, metric by metric: `.value(name)`, `.nats_per_token`."""
        return self.record.evaluation

    def report(self) -> str:
        """Return the text that `distillab train` prints at its end."""
        with contextlib.redirect_stdout(StringIO()) as text:
            show_run(self.record)
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        return self.report()


def distil(
    *,
    student: Model,
    train: Rows,
    teacher: Teacher | None = None,
    held_out: Rows | float | None = None,
    method: str = "logits",
    terms: Sequence[BaseTermConfig] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    settings: Settings | None = None,
) -> Run:
    """Distil a teacher into a student: the run that `distillab train` makes from a recipe, to the last digit.

    Called again with the same arguments it resumes, or returns the finished run. Objects in memory are not changed: a
    copy of the student is trained.

    Args:
        student, teacher: each a folder or hub id, a model, or (model, tokenizer); the teacher may be the location of a
            cache. For a model without a tokenizer, it is read from where the model was loaded. A PEFT model is trained
            by its adapters, which are merged before the student is evaluated and saved. Several teachers are a dict,
            {name: teacher}, with settings data.teacher_column or teachers.NAME.weight (docs/several-teachers.md). None:
            the method has no teacher.
        train: a file, saved folder or hub id, a `datasets.Dataset`, a `pandas.DataFrame`, or a list of dicts, with
            columns as in docs/data.md.
        held_out: rows of the same kinds, or the share of `train` that is held out; default: 0.1. TRL: eval_dataset.
        method: its name (docs/methods); `terms` replaces its terms.
        steps, batch_size, learning_rate: of the optimizer, over all processes. TRL: max_steps,
            per_device_train_batch_size · gradient_accumulation_steps, learning_rate.
        seed: of the row order, and of random weights.
        output: the run's folder; default: runs/METHOD-… with the start of the run's hash, so that other arguments give
            another folder.
        settings: further settings of the recipe by their path, {"training.schedule": "cosine"}.
    Raises:
        ConfigError: a setting, or an object of another kind.
        TokenizerMismatch: the pair does not allow the method; the message has the ways out.
        DataError: rows without usable columns.
        TeacherError, CacheMismatch, NumericsError, Interrupted: as `distillab train`.
    """
    builder = RecipeBuilder()
    builder.student(student)
    builder.teacher(teacher)
    builder.train(train)
    builder.held_out(held_out)
    arguments = {
        "method": method,
        "terms": terms_of(terms),
        "training.steps": steps,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "seed": seed,
        "output": None if output is None else str(output),
    }
    recipe = builder.build(RunRecipe, arguments, settings, where="dl.distil")
    with builder.held(), quiet():
        inputs = load_inputs(recipe)
        if output is None and "output" not in recipe.model_fields_set:
            identity = identity_of(inputs.recipe, fingerprints=inputs.fingerprints())
            folder = {"output": f"runs/{method}-{identity[:12]}"}
            inputs = inputs.with_recipe(inputs.recipe.model_copy(update=folder))
        return Run(inputs.recipe, execute(inputs))
