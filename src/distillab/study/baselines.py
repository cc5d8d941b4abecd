"""What the arms of a study are held against beside SFT: the undistilled student and the teachers, each judged once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distillab.config.models import RunRecipe
from distillab.errors import DataError
from distillab.evaluation.protocol import EvaluationResult, evaluate, require_finite_figures
from distillab.models.loading import pick_device
from distillab.records import Baseline, EvaluationRecord, JudgedModel, read_record, write_record
from distillab.runs.finished import require_unchanged, sha256_of
from distillab.runs.folder import identity_of, write_held_out
from distillab.runs.held_out import held_out_for
from distillab.runs.inputs import RunInputs, fingerprints
from distillab.runs.run import load_student
from distillab.runs.teacher import RunTeacher

UNDISTILLED = "undistilled"


def teacher_stem(name: str) -> str:
    """Name of a teacher's files among the end points."""
    return f"teacher-{name}"


@dataclass(frozen=True)
class Baselines:
    """The folder of a study's end points: a record and the held-out figures of each."""

    folder: Path

    def has(self, stem: str) -> bool:
        """Whether it is judged already."""
        return self._path(stem).exists()

    def undistilled(self, recipe: RunRecipe, inputs: RunInputs, teacher: RunTeacher) -> Baseline:
        """The student as it is before any training.

        Args:
            recipe: of a run; a random student is that of its seed.
            teacher: the yardstick of distributions.
        """

        def measure() -> EvaluationResult:
            return evaluate(
                load_student(recipe, pick_device(recipe.training.device)),
                inputs.held_out,
                recipe.evaluation,
                reader=inputs.student,
                shared=teacher.for_evaluation(),
                label="the undistilled student",
            )

        random = recipe.student.init == "random"
        note = "random weights" if random else None
        evaluation = self._kept(UNDISTILLED, recipe, inputs, measure)
        return Baseline(name=UNDISTILLED, role="undistilled student", evaluation=evaluation, note=note, random=random)

    def teacher(self, recipe: RunRecipe, inputs: RunInputs, teacher: RunTeacher) -> Baseline:
        """A teacher, judged on the same text with its own tokenizer."""
        reader, place = inputs.teacher, inputs.place
        assert reader is not None  # a study always has a teacher
        assert place is not None
        name = place.name

        def measure() -> EvaluationResult:
            return evaluate(
                teacher.model(),
                held_out_for(reader, inputs.held_out_examples),
                recipe.evaluation,
                reader=reader,
                shared=None,
                label=f"the teacher {name}",
            )

        note = "its tokens are not the student's: compare bits per byte" if inputs.shared_width == 0 else None
        evaluation = self._kept(teacher_stem(name), recipe, inputs, measure)
        return Baseline(name=name, role="teacher", evaluation=evaluation, note=note)

    def _path(self, stem: str) -> Path:
        return self.folder / f"{stem}.json"

    def _kept(
        self, stem: str, recipe: RunRecipe, inputs: RunInputs, measure: Callable[[], EvaluationResult]
    ) -> EvaluationRecord:
        """What was measured before, checked; else what is measured now.

        Raises:
            DataError: the record is damaged or of another model, or its figures have changed since.
        """
        path, lines = self._path(stem), self._path(stem).with_suffix(".jsonl")
        again = f"delete {path.name}, and the same command judges the model again"
        identity = identity_of(recipe, fingerprints=fingerprints(recipe, inputs))
        if path.exists():
            known = read_record(JudgedModel, path, fix=again)
            if (known.name, known.identity) != (stem, identity):
                raise DataError(
                    "The record is that of another model, or of other settings.",
                    where=str(path),
                    facts=[f"expected {stem}, {identity}", f"there {known.name}, {known.identity}"],
                    fix=again,
                )
            require_unchanged(self.folder, known.files, fix=again)
            return known.evaluation
        judged = measure()
        require_finite_figures(judged.record, where=str(path))
        write_held_out(lines, judged)
        files = {lines.name: sha256_of(lines)}
        write_record(JudgedModel(name=stem, identity=identity, files=files, evaluation=judged.record), path)
        return judged.record
