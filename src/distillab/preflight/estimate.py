"""Estimate what a recipe will take of a device, from configurations and rows; no weights are read.

Hours are those of the floating-point operations, at the share of the device's peak that is stated: 2 a parameter and
token for a forward pass (blocks: at all tokens; head: at the scored ones), twice that again for a backward pass. A
generated token takes at least as long as reading the model's weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedConfig

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.models.loading import load_config
from distillab.models.operations import forward_operations
from distillab.models.pruning import student_config
from distillab.preflight.devices import DEVICES, Device
from distillab.preflight.estimated import EVALUATION, UTILISATION, Asked, Estimate, RunEstimate, Signals
from distillab.preflight.machine import Parameters, parameters, weights_of, width_of
from distillab.preflight.memory import resident_bytes, unloaded_memory
from distillab.runs.budget import passes
from distillab.runs.correction import correction_recipe
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.parallel import processes_of
from distillab.runs.signals import CacheJob, bytes_before_loading
from distillab.runs.stored_signals import stored_signals
from distillab.study.plan import StudyPlan
from distillab.study.teachers import one_teacher_each
from distillab.teachers.stored.location import Part
from distillab.training.arguments import curve_points


@dataclass(frozen=True)
class Model:
    """A model that is not loaded.

    Attributes:
        count: of its parameters.
        bytes: of its weights.
    """

    config: PreTrainedConfig
    count: Parameters
    bytes: int

    def forward(self, tokens: float, scored: float) -> float:
        """Return the operations of a forward pass."""
        return forward_operations(self.config, self.count.all, tokens=tokens, scored=scored)


def estimate(recipe: RunRecipe | StudyRecipe, device: Device, *, devices: int = 1) -> Estimate:
    """Return what a recipe takes of a device, or of several of its kind.

    Args:
        devices: see `Estimate`; of a run with `training.deepspeed`, those over which it is divided.
    Raises:
        ConfigError: DeepSpeed has nothing to divide.
        DistillabError: a configuration, a tokenizer or rows cannot be read.
    """
    stage, is_run = recipe.training.deepspeed, isinstance(recipe, RunRecipe)
    if stage is not None and (devices == 1 or not is_run):
        raise ConfigError(
            "DeepSpeed ZeRO divides a run over processes, and there is one.",
            where=f"training.deepspeed: {stage}",
            fix="add --gpus N, the processes of the run"
            if is_run
            else "leave deepspeed out: each run of a study has one process",
        )
    found = Estimate(device, devices) if stage is None else Estimate(device, zero=devices)
    if isinstance(recipe, RunRecipe):
        inputs = load_inputs(recipe, weights=False)
        process, cached = resident_bytes(), stored_signals(inputs).train is not None
        ArmCost(found, inputs, recipe.method, process, cached).add(runs=1)
        return found
    study = StudyPlan(recipe, needs_weights=False)
    found.together = math.ceil(min(recipe.workers, len(recipe.arms) * len(recipe.seeds)) / devices)
    study.inputs(recipe.arms[0])
    process, stored = resident_bytes(), recipe.teacher_signals == "cached"
    for arm in recipe.arms:
        made = study.inputs(arm)
        correction = arm.teacher_correction or recipe.teacher_correction
        made = made.with_recipe(made.recipe.model_copy(update={"teacher_correction": correction}))
        cached = stored and made.method.trains_from_cache
        ArmCost(found, made, arm.name, process, cached).add(runs=len(recipe.seeds))
    if stored:
        _add_caches(found, study)
    return found


@dataclass(frozen=True)
class ArmCost:
    """An arm, or the run of a recipe, that is added to an estimate."""

    whole: Estimate
    inputs: RunInputs
    name: str
    process: int
    cached: bool

    def add(self, *, runs: int) -> None:
        """Add its runs, the correction of its teacher, and the answers of it."""
        inputs, training = self.inputs, self.inputs.recipe.training
        each = training.steps * training.batch_size / len(inputs.train.rows)
        tokens, scored = (each * count for count in _token_counts(inputs.train.rows))
        live = inputs.teacher is not None and inputs.method.reads_signals and not self.cached
        each_teacher = [one for one in self._of_each_teacher() if live and one.has_weights]
        read = [tuple(each * count for count in _token_counts(one.inputs.train.rows)) for one in each_teacher]
        of_teachers = sum(one.teacher.forward(*counts) for one, counts in zip(each_teacher, read, strict=True))
        zero = self.whole.zero
        processes = max(zero, processes_of(inputs.recipe))
        memory = unloaded_memory(
            inputs, process=self.process, device=self.whole.device.kind, cached=self.cached, processes=zero
        )
        self.whole.runs.append(
            RunEstimate(
                name=self.name,
                runs=runs,
                processes=processes,
                memory=memory,
                student_tokens=tokens,
                scored_tokens=scored,
                teacher_tokens=sum(counts[0] for counts in read),
                training=self._seconds(self.student.forward(tokens, scored) * passes(inputs.recipe) + of_teachers)
                / processes
                + self._written(),
                evaluation=self._evaluation(self.student, inputs.recipe.evaluation.generate_rows),
                weights=weights_of(inputs, teacher=False),
            )
        )
        self._add_shared()

    def _written(self) -> float:
        """Return the seconds of the answers that the student writes in training, if all have their largest length."""
        own, training = self.inputs.method.own, self.inputs.recipe.training
        if own is None:
            return 0.0
        rows = own.rows_of(training.batch_size)
        return math.ceil(training.steps / own.reuse) * self._generation(self.student, rows, own.longest, rows)

    def _add_shared(self) -> None:
        inputs, shared = self.inputs, self.whole.shared
        recipe = inputs.recipe
        if recipe.teacher_correction is not None:
            correction = correction_recipe(inputs, recipe.teacher_correction, Path(recipe.output))
            name = f"correction of the teacher: {Path(correction.output).name}"
            if name not in [run.name for run in self.whole.runs]:
                made = load_inputs(correction, weights=False)
                ArmCost(self.whole, made, name, self.process, cached=False).add(runs=1)
        for one in self._of_each_teacher():
            view, rows = one.inputs.teacher, one.inputs.train.rows
            server = None if view is None else view.spec.settings.server
            if view is None or not (view.spec.settings.has_weights or server):
                continue
            asked = self.whole.asked
            if server is not None and inputs.method.reads_signals and not self.cached:
                share = min(recipe.training.steps * recipe.training.batch_size / len(rows), 1.0)
                asked[f"signals of {view.spec.name}"] = Asked.of(server, share * _token_counts(rows)[0])
            if inputs.method.answers == "teacher":
                settings, name = recipe.teacher_answers, f"answers of {view.spec.name}"
                prompts = len(rows) * settings.answers_per_prompt
                if server is not None:
                    read = settings.answers_per_prompt * sum(row.prompt_length for row in rows)
                    asked[name] = Asked.of(server, read, prompts * settings.max_new_tokens)
                else:
                    seconds = self._generation(one.teacher, prompts, settings.max_new_tokens, settings.batch_size)
                    shared[name] = max(shared.get(name, 0.0), seconds)
            if self.whole.runs[-1].runs > 1:
                name, prompts = f"{EVALUATION}{view.spec.name}", recipe.evaluation.generate_rows
                if server is not None:
                    prompted = inputs.held_out.first(prompts).prompt_ids
                    read = _token_counts(inputs.eval_rows)[0] + sum(map(len, prompted))
                    asked[name] = Asked.of(server, read, len(prompted) * recipe.evaluation.max_new_tokens)
                else:
                    shared[name] = self._evaluation(one.teacher, prompts)

    def _of_each_teacher(self) -> list[ArmCost]:
        """Return the arm; or for each of its several teachers one with its rows."""
        return [replace(self, inputs=part) for part in self.inputs.parts.values()] or [self]

    @property
    def has_weights(self) -> bool:
        """Whether its teacher runs on this device."""
        return self.inputs.require_teacher().spec.settings.has_weights

    @cached_property
    def student(self) -> Model:
        """The student."""
        settings = self.inputs.recipe.student
        config = student_config(settings)
        count = parameters(config, settings.adapter)
        return Model(config, count, weights_of(self.inputs, teacher=False).student)

    @cached_property
    def teacher(self) -> Model:
        """The teacher."""
        spec = self.inputs.require_teacher().spec
        config = load_config(spec.config, revision=spec.revision)
        count = parameters(config)
        width = width_of(spec.settings.dtype, config)
        return Model(config, count, count.bytes(width, spec.settings.quantization))

    def _seconds(self, operations: float) -> float:
        device, kind = self.whole.device, self.inputs.recipe.training.precision
        return operations / (UTILISATION * (device.bfloat16 if kind == "bfloat16" else device.float32))

    def _evaluation(self, model: Model, prompts: int) -> float:
        settings, rows = self.inputs.recipe.evaluation, self.inputs.eval_rows
        points = curve_points(self.inputs.recipe.training)
        read = (len(rows) + points * min(settings.curve_rows, len(rows))) / len(rows)
        tokens, scored = (read * count for count in _token_counts(rows))
        prompts = min(prompts, len(self.inputs.held_out.rows))
        return self._seconds(model.forward(tokens, scored)) + self._generation(
            model, prompts, settings.max_new_tokens, settings.batch_size
        )

    def _generation(self, model: Model, prompts: int, new_tokens: int, batch_size: int) -> float:
        """Return the seconds of answers that all have their largest length."""
        computed = self._seconds(model.forward(prompts * new_tokens, prompts * new_tokens))
        read = math.ceil(prompts / batch_size) * new_tokens * model.bytes / (UTILISATION * self.whole.device.bandwidth)
        return max(computed, read)


def _add_caches(found: Estimate, study: StudyPlan) -> None:
    """Add the signals that a study stores, but those on answers that are not written yet."""
    parts: tuple[Part, ...] = ("train", "held_out")
    for part in parts:
        for arm in study.caches.missing(part, study.recipe.arms):
            job, inputs = study.caches.job(arm, part), study.inputs(arm)
            found.cache_bytes += bytes_before_loading(job)
            reader = ArmCost(found, inputs, arm.name, 0, cached=True)
            name = f"signals of {job.teacher.spec.name}"
            if (server := job.teacher.spec.settings.server) is not None:
                before = found.asked[name].read if name in found.asked else 0
                found.asked[name] = Asked.of(server, before + _token_counts(job.rows)[0])
                continue
            operations = reader.teacher.forward(*_token_counts(job.rows))
            found.shared[name] = found.shared.get(name, 0.0) + reader._seconds(operations)
            if part == "train":
                kinds = {one.name: one for one in (found.device, *DEVICES.values())}
                found.signals[f"{name} ({job.location.name})"] = _signals(
                    found,
                    study,
                    job,
                    weights=reader.teacher.bytes,
                    seconds={
                        kind: replace(reader, whole=Estimate(device))._seconds(operations)
                        for kind, device in kinds.items()
                    },
                )


def _signals(found: Estimate, study: StudyPlan, job: CacheJob, *, weights: int, seconds: dict[str, float]) -> Signals:
    """Return what a job stores on training rows, and how fast the arms that read it do so."""
    tokens, once = _token_counts(job.rows)[0], bytes_before_loading(replace(job, rows=()))
    stored = bytes_before_loading(job) - once
    arms = one_teacher_each(study.recipe, study.recipe.arms)
    readers = [arm.name for arm in arms if study.caches.stored(arm).train == str(job.folder)]
    rates = [run.student_tokens / run.training for run in found.runs if run.name in readers]
    return Signals(tokens, stored, once, seconds, weights, reading=stored / tokens * max(rates))


def _token_counts(rows: Sequence[EncodedRow]) -> tuple[int, int]:
    """Return the tokens of rows, and those that are scored."""
    return sum(map(len, rows)), sum(int(row.answer_mask.sum()) for row in rows)
