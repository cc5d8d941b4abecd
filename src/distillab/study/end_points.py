"""What the arms of a study are held against beside SFT: the undistilled student and the teachers, each judged once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distillab.config.models import RunRecipe
from distillab.evaluation.protocol import Judged, evaluate
from distillab.models.loading import pick_device
from distillab.records import EndPoint, EvaluationRecord, read_record, write_record
from distillab.study.folder import write_held_out
from distillab.study.prepare import Prepared, held_out_for
from distillab.study.run import load_student
from distillab.study.run_teacher import RunTeacher

UNDISTILLED = "undistilled"


def teacher_stem(name: str) -> str:
    """Name of a teacher's files among the end points."""
    return f"teacher-{name}"


@dataclass(frozen=True)
class EndPoints:
    """The folder of a study's end points: a record and the held-out figures of each."""

    folder: Path

    def has(self, stem: str) -> bool:
        """Whether it is judged already."""
        return self._path(stem).exists()

    def undistilled(self, recipe: RunRecipe, prepared: Prepared, teacher: RunTeacher) -> EndPoint:
        """The student as it is before any training.

        Args:
            recipe: of a run; a random student is that of its seed.
            teacher: the yardstick of distributions.
        """

        def measure() -> Judged:
            return evaluate(
                load_student(recipe, pick_device(recipe.training.device)),
                prepared.held_out,
                recipe.evaluation,
                reader=prepared.student,
                shared=teacher.for_evaluation(),
                label="the undistilled student",
            )

        note = "random weights" if recipe.student.init == "random" else None
        return EndPoint(
            name=UNDISTILLED, role="undistilled student", evaluation=self._kept(UNDISTILLED, measure), note=note
        )

    def teacher(self, recipe: RunRecipe, prepared: Prepared, teacher: RunTeacher) -> EndPoint:
        """A teacher, judged on the same text with its own tokenizer."""
        reader, place = prepared.teacher, prepared.place
        assert reader is not None  # a study always has a teacher
        assert place is not None
        name = place.name

        def measure() -> Judged:
            return evaluate(
                teacher.local().model,
                held_out_for(reader, prepared.held_out_examples),
                recipe.evaluation,
                reader=reader,
                shared=None,
                label=f"the teacher {name}",
            )

        note = "its tokens are not the student's: compare bits per byte" if prepared.shared_width == 0 else None
        return EndPoint(name=name, role="teacher", evaluation=self._kept(teacher_stem(name), measure), note=note)

    def _path(self, stem: str) -> Path:
        return self.folder / f"{stem}.json"

    def _kept(self, stem: str, measure: Callable[[], Judged]) -> EvaluationRecord:
        path = self._path(stem)
        if path.exists():
            return read_record(EvaluationRecord, path)
        judged = measure()
        write_held_out(path.with_suffix(".jsonl"), judged)
        write_record(judged.record, path)
        return judged.record
