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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from distillab.config.models import ArmConfig, RunRecipe, StudyRecipe, TeacherConfig
from distillab.data.collation import Collator
from distillab.errors import ConfigError
from distillab.evaluation.protocol import Judged, evaluate
from distillab.models.loading import model_name, pick_device
from distillab.records import EndPoint, EvaluationRecord, RunRecord, StudyResults, read_record, write_record
from distillab.study.folder import claim_study, write_held_out
from distillab.study.parallel import run_jobs
from distillab.study.prepare import Prepared, admit, fingerprints, held_out_for, prepare
from distillab.study.results import assemble
from distillab.study.run import execute, load_student, load_teacher, shared_teacher, training_rows
from distillab.teachers.local import load_local

_Work = tuple[str, str, int]  # kind of work, name of the arm, seed
_UNDISTILLED = "undistilled"


@dataclass(frozen=True)
class PlantedFailure:
    """A failure that a demonstration plants into one arm.

    Attributes:
        shows: what it shows; every record of the arm is marked with it.
        collator: given the padding id, makes the broken batches.
    """

    shows: str
    collator: Callable[[int], Collator]


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
            ConfigError: the folder holds another study, or two teachers have one name.
        """
        folder = Path(self.recipe.output)
        for arm in self.recipe.arms:
            admit(self._run_recipe(arm, 0), self._prepare(arm), demonstrate_mismatch=self.demonstrate_mismatch)
        self._require_distinct_teachers()
        files = {arm.name: fingerprints(self._run_recipe(arm, 0), self._prepare(arm)) for arm in self.recipe.arms}
        claim_study(folder, self.recipe, fingerprints=files)
        # seed by seed, so that an interrupted study has whole comparisons to look at
        runs = [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]
        unfinished = [(arm, seed) for arm, seed in runs if not self._folder(arm, seed).joinpath("run.json").exists()]
        # what runs share comes first, so that no two processes make the same thing
        self._do_all([*self._missing_end_points(), *self._missing_answers([arm for arm, _ in unfinished])])
        self._do_all([("run", arm.name, seed) for arm, seed in unfinished])
        results = assemble(
            self.recipe,
            self._prepare(self.recipe.arms[0]),
            end_points=[self.undistilled(), *(self.teacher_point(arm) for arm in self._arm_of_each_teacher())],
            records=[self.execute(arm, seed) for arm, seed in runs],
            contracts=[p.contract for p in self._prepared.values() if p.contract is not None],
            reproduce=self.reproduce,
        )
        write_record(results, folder / "results.json")
        return results

    def execute(self, arm: ArmConfig, seed: int) -> RunRecord:
        """One run, or its record where it is finished."""
        failure = self.planted.get(arm.name)
        return execute(
            self._run_recipe(arm, seed),
            prepared=self._prepare(arm),
            answers_folder=self._answers_folder(arm),
            arm=arm.name,
            demonstrate_mismatch=self.demonstrate_mismatch,
            demonstrates=failure.shows if failure else None,
            collator=failure.collator if failure else None,
        )

    def answers(self, arm: ArmConfig) -> None:
        """Let the arm's teacher answer every prompt, into the store that all seeds share."""
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        prepared = self._prepare(arm)
        teacher = load_teacher(recipe, prepared, pick_device(recipe.training.device))
        training_rows(recipe, prepared, teacher, self._answers_folder(arm))

    def do(self, kind: str, arm_name: str, seed: int) -> None:
        """One piece of the study; its result is on disk."""
        arm = next(arm for arm in self.recipe.arms if arm.name == arm_name)
        match kind:
            case "end_point":
                self.teacher_point(arm)
            case "undistilled":
                self.undistilled()
            case "answers":
                self.answers(arm)
            case "run":
                self.execute(arm, seed)

    def _do_all(self, work: list[_Work]) -> None:
        if self.recipe.workers == 1 or len(work) < 2:
            for item in work:
                self.do(*item)
            return
        bare = replace(self, _prepared={})  # what is loaded here need not travel
        run_jobs([partial(_in_worker, bare, *item) for item in work], workers=self.recipe.workers)

    def _folder(self, arm: ArmConfig, seed: int) -> Path:
        return Path(self.recipe.output) / "runs" / arm.name / f"seed{seed}"

    def _teacher_of(self, arm: ArmConfig) -> TeacherConfig:
        return arm.teacher or self.recipe.teacher

    def _arm_of_each_teacher(self) -> list[ArmConfig]:
        """One arm for each teacher of the study, in their order."""
        first: dict[str, ArmConfig] = {}
        for arm in self.recipe.arms:
            first.setdefault(self._teacher_of(arm).path, arm)
        return list(first.values())

    def _missing_end_points(self) -> list[_Work]:
        work: list[_Work] = []
        if not self._end_point_path(_UNDISTILLED).exists():
            work.append(("undistilled", self.recipe.arms[0].name, 0))
        for arm in self._arm_of_each_teacher():
            if not self._end_point_path(_teacher_stem(self._teacher_of(arm).path)).exists():
                work.append(("end_point", arm.name, 0))
        return work

    def _missing_answers(self, arms: list[ArmConfig]) -> list[_Work]:
        """One piece a store that unfinished arms need; a store that is complete is seen to be so at once."""
        first: dict[Path, ArmConfig] = {}
        for arm in arms:
            if arm.resolved().answers == "teacher":
                first.setdefault(self._answers_folder(arm), arm)
        return [("answers", arm.name, 0) for arm in first.values()]

    def _end_point_path(self, stem: str) -> Path:
        return Path(self.recipe.output) / "end_points" / f"{stem}.json"

    def _require_distinct_teachers(self) -> None:
        paths = [self._teacher_of(arm).path for arm in self._arm_of_each_teacher()]
        names = [model_name(path) for path in paths]
        if len(set(names)) != len(names):
            raise ConfigError(
                "Two teachers of the study have the same name, so their results could not be told apart.",
                facts=[f"{name}: {path}" for name, path in zip(names, paths, strict=True)],
                fix="rename one of the folders",
            )

    def _run_recipe(self, arm: ArmConfig, seed: int) -> RunRecipe:
        return self.recipe.run_recipe(arm, seed, str(self._folder(arm, seed)))

    def _prepare(self, arm: ArmConfig) -> Prepared:
        """Tokenizers and rows of an arm: the same for all arms with the same teacher.

        All arms are judged on the same held-out rows: those that fit whole for every teacher of the study.
        """
        if not self._prepared:
            pairs: dict[str, Prepared] = {}
            for other in self.recipe.arms:
                key = self._teacher_key(other)
                if key not in pairs:
                    pairs[key] = prepare(self._run_recipe(other, 0))
            common = set.intersection(*(prepared.held_out_keys for prepared in pairs.values()))
            self._prepared = {key: prepared.judged_on(common) for key, prepared in pairs.items()}
        return self._prepared[self._teacher_key(arm)]

    def _teacher_key(self, arm: ArmConfig) -> str:
        return self._teacher_of(arm).model_dump_json(include={"path", "tokenizer", "revision"})

    def _answers_folder(self, arm: ArmConfig) -> Path:
        teacher = self._teacher_of(arm)
        settings = arm.teacher_answers or self.recipe.teacher_answers
        text = teacher.model_dump_json() + settings.model_dump_json(exclude={"keep_cut_off"})
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Path(self.recipe.output) / "answers" / f"{model_name(teacher.path)}-{digest}"

    def undistilled(self) -> EndPoint:
        """The student as it is before any training (a random one: with the first seed)."""
        arm = self.recipe.arms[0]
        prepared = self._prepare(arm)
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        device = pick_device(recipe.training.device)

        def measure() -> Judged:
            return evaluate(
                load_student(recipe, device),
                prepared.held_out,
                recipe.evaluation,
                reader=prepared.student,
                shared=shared_teacher(prepared, load_teacher(recipe, prepared, device)),
                label="the undistilled student",
            )

        note = "random weights" if recipe.student.init == "random" else None
        return EndPoint(
            name="undistilled", role="undistilled student", evaluation=self._kept(_UNDISTILLED, measure), note=note
        )

    def teacher_point(self, arm: ArmConfig) -> EndPoint:
        """The arm's teacher, judged on the same text with its own tokenizer."""
        settings, prepared = self._teacher_of(arm), self._prepare(arm)
        name = model_name(settings.path)
        reader = prepared.teacher
        assert reader is not None  # a study always has a teacher

        def measure() -> Judged:
            device = pick_device(self.recipe.training.device)
            teacher = load_local(settings, student_device=device, template_sha256=reader.encoder.template.sha256)
            return evaluate(
                teacher.model,
                held_out_for(reader, prepared.held_out_examples),
                self.recipe.evaluation,
                reader=reader,
                shared=None,
                label=f"the teacher {name}",
            )

        note = "its tokens are not the student's: compare bits per byte" if prepared.shared_width == 0 else None
        return EndPoint(
            name=name, role="teacher", evaluation=self._kept(_teacher_stem(settings.path), measure), note=note
        )

    def _kept(self, stem: str, measure: Callable[[], Judged]) -> EvaluationRecord:
        """An end point's evaluation, made once."""
        path = self._end_point_path(stem)
        if path.exists():
            return read_record(EvaluationRecord, path)
        judged = measure()
        write_held_out(path.with_suffix(".jsonl"), judged)
        write_record(judged.record, path)
        return judged.record


def _teacher_stem(path: str) -> str:
    return f"teacher-{model_name(path)}"


_studies: dict[str, Study] = {}


def _in_worker(study: Study, kind: str, arm_name: str, seed: int) -> None:
    """One piece in a process of its own, which keeps the study of its first piece, and so what that has loaded."""
    _studies.setdefault("the study", study).do(kind, arm_name, seed)
