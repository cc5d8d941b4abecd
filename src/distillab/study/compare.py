"""A study: methods × seeds on the same rows, under one budget, judged by one protocol.

    folder/
      study.json       the resolved recipe
      answers/         the teachers' answers, one store a teacher and decoding
      end_points/      the undistilled student, the teachers
      runs/ARM/seedN/  one run each (see `run`)
      results.json     the records of all, from which the report is made
      report.md, report.html
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distillab.config.models import ArmConfig, RunRecipe, StudyRecipe, TeacherConfig
from distillab.data.encoding import EncodedSplit
from distillab.evaluation.protocol import Judged, evaluate
from distillab.models.loading import load_model
from distillab.records import EndPoint, EvaluationRecord, RunRecord, StudyResults, read_record, write_record
from distillab.study.folder import claim_study, write_held_out
from distillab.study.prepare import Prepared, admit, held_out_for, pick_device, prepare
from distillab.study.results import assemble
from distillab.study.run import execute, load_student

BreakRows = Callable[[Prepared], EncodedSplit]


@dataclass(frozen=True)
class PlantedFailure:
    """A failure that a demonstration plants into one arm: what it shows, and how its rows are broken."""

    shows: str
    rows: BreakRows


@dataclass
class Study:
    """Plans and runs one study. Killed at any instant, it resumes and redoes no finished run.

    Args:
        recipe: the study.
        reproduce: the command that makes it again, for the report.
        demonstrate_mismatch: let arms run that the pair does not allow, and mark them.
        planted: arm name -> failure planted on purpose (the demo only).
    """

    recipe: StudyRecipe
    reproduce: str
    demonstrate_mismatch: bool = False
    planted: dict[str, PlantedFailure] = field(default_factory=dict)
    _prepared: dict[str, Prepared] = field(default_factory=dict)

    def run(self) -> StudyResults:
        """Run what is not finished yet, and assemble the results.

        Raises:
            TokenizerMismatch: an arm's method is not admitted; raised before any weight is loaded.
            ConfigError: the folder holds another study.
        """
        start = time.perf_counter()
        folder = Path(self.recipe.output)
        for arm in self.recipe.arms:
            prepared = self._prepare(arm)
            admit(self._run_recipe(arm, 0), prepared, demonstrate_mismatch=self.demonstrate_mismatch)
        claim_study(folder, self.recipe)
        end_points = [self._undistilled(), *self._teachers()]
        records: list[RunRecord] = []
        # seed by seed, so that an interrupted study has whole comparisons to look at
        for seed in self.recipe.seeds:
            for arm in self.recipe.arms:
                records.append(self._execute(arm, seed))
        results = assemble(
            self.recipe,
            self._prepare(self.recipe.arms[0]),
            end_points=end_points,
            records=records,
            contracts=[p.contract for p in self._prepared.values() if p.contract is not None],
            reproduce=self.reproduce,
            wall_s=time.perf_counter() - start,
        )
        write_record(results, folder / "results.json")
        return results

    def _execute(self, arm: ArmConfig, seed: int) -> RunRecord:
        prepared = self._prepare(arm)
        failure = self.planted.get(arm.name)
        return execute(
            self._run_recipe(arm, seed),
            prepared=prepared,
            answers_folder=self._answers_folder(arm),
            arm=arm.name,
            demonstrate_mismatch=self.demonstrate_mismatch,
            demonstrates=failure.shows if failure else None,
            train_rows=failure.rows(prepared) if failure else None,
        )

    def _run_recipe(self, arm: ArmConfig, seed: int) -> RunRecipe:
        return self.recipe.run_recipe(arm, seed, str(Path(self.recipe.output) / "runs" / arm.name / f"seed{seed}"))

    def _prepare(self, arm: ArmConfig) -> Prepared:
        """Tokenizers and rows of an arm: the same for all arms with the same teacher."""
        teacher = arm.teacher or self.recipe.teacher
        key = teacher.model_dump_json(include={"path", "tokenizer", "revision"})
        if key not in self._prepared:
            self._prepared[key] = prepare(self._run_recipe(arm, 0))
        return self._prepared[key]

    def _answers_folder(self, arm: ArmConfig) -> Path:
        teacher = arm.teacher or self.recipe.teacher
        settings = arm.teacher_answers or self.recipe.teacher_answers
        text = teacher.model_dump_json() + settings.model_dump_json(exclude={"keep_cut_off"})
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Path(self.recipe.output) / "answers" / f"{Path(teacher.path).name}-{digest}"

    def _undistilled(self) -> EndPoint:
        """The student as it is before any training (a random one: with the first seed)."""
        arm = self.recipe.arms[0]
        prepared = self._prepare(arm)
        recipe = self._run_recipe(arm, self.recipe.seeds[0])

        def measure() -> Judged:
            return evaluate(
                load_student(recipe, pick_device(recipe.training.device)),
                prepared.held_out,
                recipe.evaluation,
                reader=prepared.student,
                shared=None,
                label="the undistilled student",
            )

        note = "random weights" if recipe.student.init == "random" else None
        return EndPoint(
            name="undistilled", role="undistilled student", evaluation=self._kept("undistilled", measure), note=note
        )

    def _teachers(self) -> list[EndPoint]:
        """Every teacher of the study, judged on the same text with its own tokenizer."""
        points: list[EndPoint] = []
        for arm in self.recipe.arms:
            settings = arm.teacher or self.recipe.teacher
            name = Path(settings.path).name
            if any(point.name == name for point in points):
                continue
            prepared = self._prepare(arm)

            def measure(
                settings: TeacherConfig = settings, prepared: Prepared = prepared, name: str = name
            ) -> Judged:
                assert prepared.teacher is not None
                device = pick_device(self.recipe.training.device if settings.device == "auto" else settings.device)
                return evaluate(
                    load_model(
                        settings.path, dtype=settings.dtype, device=device, revision=settings.revision, role="teacher"
                    ),
                    held_out_for(prepared.teacher, prepared.held_out_examples),
                    self.recipe.evaluation,
                    reader=prepared.teacher,
                    shared=None,
                    label=f"the teacher {name}",
                )

            assert prepared.contract is not None
            note = "its tokens are not the student's: compare bits per byte" if prepared.shared_width == 0 else None
            points.append(
                EndPoint(name=name, role="teacher", evaluation=self._kept(f"teacher-{name}", measure), note=note)
            )
        return points

    def _kept(self, name: str, measure: Callable[[], Judged]) -> EvaluationRecord:
        """An end point's evaluation, made once."""
        folder = Path(self.recipe.output) / "end_points"
        path = folder / f"{name}.json"
        if path.exists():
            return read_record(EvaluationRecord, path)
        judged = measure()
        write_held_out(folder / f"{name}.jsonl", judged)
        write_record(judged.record, path)
        return judged.record
