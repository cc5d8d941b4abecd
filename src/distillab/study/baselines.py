"""Evaluate the baselines of a study, each once: the undistilled student and the teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillab.errors import DataError
from distillab.evaluation.intervals import paired_interval
from distillab.evaluation.protocol import EvaluationResult, evaluate, evaluate_absent, require_finite_figures
from distillab.models.gguf import quantization_of
from distillab.records import Baseline, EvaluatedModel, EvaluationRecord, RunCost, read_record, write_record
from distillab.runs.folder import identity_of, read_held_out, require_unchanged, sha256_of, write_held_out
from distillab.runs.held_out import held_out_for
from distillab.runs.inputs import RunInputs
from distillab.runs.pruned import keep_student
from distillab.runs.student import load_student
from distillab.runs.teacher import RunTeacher

UNDISTILLED = "undistilled"


def teacher_stem(name: str) -> str:
    """Name of a teacher's files among the baselines."""
    return f"teacher-{name}"


def _quantised(path: str, quantization: str | None) -> str | None:
    kind = quantization_of(path, quantization)
    return kind and f"loaded from quantised weights: {kind}"


@dataclass(frozen=True)
class Baselines:
    """The folder of a study's baselines: a record and the held-out figures of each."""

    folder: Path

    def has(self, stem: str) -> bool:
        """Return whether it is evaluated already."""
        return self._path(stem).exists()

    def undistilled(self, inputs: RunInputs, teacher: RunTeacher) -> Baseline:
        """Evaluate the student as it is before any training.

        Args:
            inputs: of a run; a random student has its seed.
            teacher: whose distributions it is compared with.
        """

        def measure() -> EvaluationResult:
            shared = teacher.for_evaluation()
            return evaluate(
                load_student(inputs),
                inputs.held_out,
                inputs.recipe.evaluation,
                reader=inputs.student,
                shared=shared,
                label="the undistilled student",
                unshared=teacher.unshared,
            )

        student = inputs.recipe.student
        random = student.init == "random"
        evaluation = self._kept(UNDISTILLED, inputs, measure)
        made = keep_student(inputs)
        notes = [
            "random weights" if random else _quantised(student.path, student.quantization),
            None if made is None else made.line,
        ]
        note = "; ".join(note for note in notes if note) or None
        return Baseline(name=UNDISTILLED, role="undistilled student", evaluation=evaluation, note=note, random=random)

    def teacher(self, inputs: RunInputs, teacher: RunTeacher, correction: RunCost | None = None) -> Baseline:
        """Evaluate a teacher, on the same text with its own tokenizer.

        Args:
            correction: what it took to train it on the training rows before.
        """
        view = inputs.require_teacher()
        name = view.spec.name

        def measure() -> EvaluationResult:
            examples = view.as_read(inputs.held_out_examples, where=inputs.splits.sources[1])
            held_out = held_out_for(view.alone, examples)
            settings, label = inputs.recipe.evaluation, f"the teacher {name}"
            if view.spec.settings.has_weights:
                return evaluate(teacher.model(), held_out, settings, reader=view.reader, shared=None, label=label)
            absent = teacher.absent(held_out.first(settings.rows).rows)
            return evaluate_absent(absent, held_out, settings, examples=examples, reader=view.reader, label=label)

        other_tokens = "its tokens are not the student's: compare bits per byte" if inputs.shared_width == 0 else None
        trained = correction and f"the teacher, corrected: trained on the training rows, {correction.steps} steps"
        quantised = _quantised(view.spec.config, view.spec.settings.quantization)
        prompts = view.prompt_column and f"it reads {view.prompt_column}, which the student does not see"
        notes = [note for note in (trained, prompts, other_tokens, quantised) if note]
        evaluation = self._kept(teacher_stem(name), inputs, measure)
        note = "; ".join(notes) or None
        served = teacher.paid
        return Baseline(
            name=name, role="teacher", evaluation=evaluation, note=note, correction=correction, served=served
        )

    def compared(self, quantised: Baseline, full: Baseline) -> Baseline:
        """Return the figures of a quantised teacher with its difference to the same weights in full precision."""
        lines = [
            read_held_out(self._path(teacher_stem(point.name)).with_suffix(".jsonl")) for point in (quantised, full)
        ]
        nats, base = ([np.array([line["nats"] for line in each if "nats" in line])] for each in lines)
        tokens = np.array([line["tokens"] for line in lines[0] if "nats" in line], dtype=np.float64)
        found = paired_interval(nats, base, tokens)
        note = f"{found.mean:+.3f} nats/token against {full.name} in full precision"
        if found.low is not None:
            note += f" (95 % interval {found.low:+.3f} to {found.high:+.3f})"
        notes = "; ".join(part for part in (quantised.note, note) if part)
        return quantised.model_copy(update={"against_full_precision": found, "note": notes})

    def _path(self, stem: str) -> Path:
        return self.folder / f"{stem}.json"

    def _kept(self, stem: str, inputs: RunInputs, measure: Callable[[], EvaluationResult]) -> EvaluationRecord:
        """Return the stored evaluation, checked; else evaluate now.

        Raises:
            DataError: the record is damaged or of another model, or its figures have changed since.
        """
        path, lines = self._path(stem), self._path(stem).with_suffix(".jsonl")
        again = f"delete {path.name}, and the same command evaluates the model again"
        identity = identity_of(inputs.recipe, fingerprints=inputs.fingerprints())
        if path.exists():
            known = read_record(EvaluatedModel, path, fix=again)
            if (known.name, known.identity) != (stem, identity):
                raise DataError(
                    "The record is that of another model, or of other settings.",
                    where=str(path),
                    facts=[f"expected {stem}, {identity}", f"there {known.name}, {known.identity}"],
                    fix=again,
                )
            require_unchanged(self.folder, known.files, fix=again)
            return known.evaluation
        result = measure()
        require_finite_figures(result.record, where=str(path))
        write_held_out(lines, result)
        files = {lines.name: sha256_of(lines)}
        write_record(EvaluatedModel(name=stem, identity=identity, files=files, evaluation=result.record), path)
        return result.record
