"""A study: methods × seeds on the same rows, under one budget, judged by one protocol.

folder/
  study.json       the resolved recipe
  answers/         the teachers' answers, one store a teacher and decoding
  cache/           what the teachers say of the rows, one location a teacher (see `caches`)
  baselines/      the undistilled student, the teachers
  runs/ARM/seedN/  one run each (see `run`)
  doctor.json      what was found before the first run, where anybody looked
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
from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError
from distillab.models.loading import model_name, pick_device
from distillab.records import Baseline, Investigation, RunRecord, StudyResults, write_record
from distillab.runs.answers import training_rows
from distillab.runs.dates import dated
from distillab.runs.folder import claim, require_claimable
from distillab.runs.inputs import RunInputs, admit, fingerprints, load_inputs
from distillab.runs.lock import held, require_free, worker_lock
from distillab.runs.run import execute
from distillab.runs.sides import asked_rows
from distillab.runs.signals import build_cache
from distillab.runs.teacher import RunTeacher, StoredSignals
from distillab.study.baselines import UNDISTILLED, Baselines, teacher_stem
from distillab.study.caches import OTHERWISE, StudyCaches
from distillab.study.results import assemble
from distillab.study.workers import run_jobs
from distillab.teachers.cache_parts import Part

_Work = tuple[str, str, int]  # kind of work, name of the arm, seed
_PART_OF: dict[str, Part] = {"cache_train": "train", "cache_held_out": "held_out", "cache_answers": "answers"}


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
        investigation: what was found before; kept in the folder and in the results.
    """

    recipe: StudyRecipe
    reproduce: str
    demonstrate_mismatch: bool = False
    planted: dict[str, PlantedFailure] = field(default_factory=dict)
    investigation: Investigation | None = None
    _prepared: dict[str, RunInputs] = field(default_factory=dict)
    _caches: StudyCaches | None = None

    def __post_init__(self) -> None:
        self.recipe = dated(self.recipe)  # all arms read one day

    @property
    def doctor_record(self) -> Path:
        """Where what was found before the first run is kept."""
        return Path(self.recipe.output) / "doctor.json"

    def require_runnable(self) -> None:
        """Check all that can be checked before a weight is loaded. Nothing is written.

        Raises:
            TokenizerMismatch: an arm's method is not admitted.
            ConfigError: the folder holds another study, another process writes into it, or two teachers have one name.
        """
        self._require_admitted()
        folder = Path(self.recipe.output)
        require_claimable(folder, self.recipe, fingerprints=self._fingerprints())
        require_free(folder)

    def held_out_line(self) -> str:
        """How many of the held-out rows every model of the study can be judged on, and why not more."""
        arm = self.recipe.arms[0]
        return self._prepare(arm).held_out_line(self._run_recipe(arm, 0))

    def run(self) -> StudyResults:
        """Run what is not finished yet, and assemble the results.

        Raises:
            TokenizerMismatch, ConfigError: see `require_runnable`.
        """
        self.require_runnable()
        with held(Path(self.recipe.output)):
            return self._run()

    def _run(self) -> StudyResults:
        folder = Path(self.recipe.output)
        claim(folder, self.recipe, fingerprints=self._fingerprints())
        if self.investigation is not None:
            write_record(self.investigation, self.doctor_record)
        self._make_what_is_shared()
        # seed by seed, so that an interrupted study has whole comparisons to look at
        runs = [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]
        self._do_all([*self._missing_undistilled(), *(("run", arm.name, seed) for arm, seed in self._unfinished())])
        records = [self.execute(arm, seed) for arm, seed in runs]
        results = assemble(
            self.recipe,
            self._prepare(self.recipe.arms[0]),
            baselines=[self.undistilled(), *(self.teacher_point(arm) for arm in self._arm_of_each_teacher())],
            records=records,
            caches=self.caches.used(records),
            contracts=[p.contract for p in self._prepared.values() if p.contract is not None],
            reproduce=self.reproduce,
            investigation=self.investigation,
        )
        write_record(results, folder / "results.json")
        return results

    def execute(self, arm: ArmConfig, seed: int) -> RunRecord:
        """One run, or its record where it is finished."""
        failure = self.planted.get(arm.name)
        return execute(
            self._run_recipe(arm, seed),
            inputs=self._prepare(arm),
            answers_folder=self._answers_folder(arm),
            arm=arm.name,
            demonstrate_mismatch=self.demonstrate_mismatch,
            demonstrates=failure.shows if failure else None,
            collator=failure.collator if failure else None,
            stored=self.caches.stored(arm),
        )

    def undistilled(self) -> Baseline:
        """The student as it is before any training (a random one: with the first seed)."""
        arm = self.recipe.arms[0]
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        return self._baselines.undistilled(recipe, self._prepare(arm), self._teacher(arm, self.caches.stored(arm)))

    def teacher_point(self, arm: ArmConfig) -> Baseline:
        """The arm's teacher."""
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        return self._baselines.teacher(recipe, self._prepare(arm), self._teacher(arm, StoredSignals()))

    def answers(self, arm: ArmConfig) -> EncodedSplit:
        """The rows with the answers of the arm's teacher, which answers what it has not answered yet.

        They go into the store that all seeds share.
        """
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        inputs = self._prepare(arm)
        return training_rows(recipe, inputs, self._teacher(arm, StoredSignals()), self._answers_folder(arm))[0]

    def build(self, arm: ArmConfig, part: Part) -> None:
        """Record what the arm's teacher says of some rows, for all runs that read it."""
        recipe, inputs = self._run_recipe(arm, 0), self._prepare(arm)
        rows = asked_rows(recipe, inputs, self.answers(arm)) if part == "answers" else ()
        recording = self.caches.recording(arm, part, rows)
        # several studies may keep their caches in one place
        with held(recording.folder, worker_lock(0, 1)):
            build_cache(
                recording,
                teacher=self._teacher(arm, StoredSignals()).source(),
                inputs=inputs,
                settings=self.recipe.cache,
                otherwise=OTHERWISE,
            )

    @property
    def caches(self) -> StudyCaches:
        """What the runs share of their teachers' signals."""
        if self._caches is None:
            self._caches = StudyCaches(
                self.recipe, self._prepare, lambda arm: self._run_recipe(arm, 0), frozenset(self.planted)
            )
        return self._caches

    @property
    def _baselines(self) -> Baselines:
        return Baselines(Path(self.recipe.output) / "baselines")

    def do(self, kind: str, arm_name: str, seed: int) -> None:
        """One piece of the study; its result is on disk."""
        arm = next(arm for arm in self.recipe.arms if arm.name == arm_name)
        match kind:
            case "baseline":
                self.teacher_point(arm)
            case "undistilled":
                self.undistilled()
            case "answers":
                self.answers(arm)
            case "run":
                self.execute(arm, seed)
            case _:
                self.build(arm, _PART_OF[kind])

    def _make_what_is_shared(self) -> None:
        """End points, answers and caches, so that no two runs make the same thing."""
        arms = [arm for arm in self.recipe.arms if any(arm == other for other, _ in self._unfinished())]
        judged = arms if arms or not self._missing_undistilled() else [self.recipe.arms[0]]
        first = [("cache_train", arm) for arm in self.caches.missing("train", arms)]
        first += [("cache_held_out", arm) for arm in self.caches.missing("held_out", judged)]
        second = [("cache_answers", arm) for arm in self.caches.missing("answers", arms)]
        self.caches.require_space([(arm, _PART_OF[kind]) for kind, arm in (*first, *second)])
        shared = [*self._missing_end_points(), *self._missing_answers(arms)]
        self._do_all([*shared, *((kind, arm.name, 0) for kind, arm in first)])
        # the rows of these have the answers that were just given
        self._do_all([(kind, arm.name, 0) for kind, arm in second])

    def _unfinished(self) -> list[tuple[ArmConfig, int]]:
        runs = [(arm, seed) for seed in self.recipe.seeds for arm in self.recipe.arms]
        return [(arm, seed) for arm, seed in runs if not self._folder(arm, seed).joinpath("run.json").exists()]

    def _teacher(self, arm: ArmConfig, stored: StoredSignals) -> RunTeacher:
        recipe = self._run_recipe(arm, self.recipe.seeds[0])
        return RunTeacher(recipe, self._prepare(arm), device=pick_device(recipe.training.device), stored=stored)

    def _do_all(self, work: list[_Work]) -> None:
        if self.recipe.workers == 1 or len(work) < 2:
            for item in work:
                self.do(*item)
            return
        bare = replace(self, _prepared={}, _caches=None)  # what is loaded here need not travel
        run_jobs([partial(_in_worker, bare, *item) for item in work], workers=self.recipe.workers)

    def _folder(self, arm: ArmConfig, seed: int) -> Path:
        return Path(self.recipe.output) / "runs" / arm.name / f"seed{seed}"

    def _teacher_of(self, arm: ArmConfig) -> TeacherConfig:
        return arm.teacher or self.recipe.teacher

    def _teacher_path(self, arm: ArmConfig) -> str:
        path = self._teacher_of(arm).path
        assert path is not None  # the recipe says so
        return path

    def _arm_of_each_teacher(self) -> list[ArmConfig]:
        """One arm for each teacher of the study, in their order."""
        first: dict[str, ArmConfig] = {}
        for arm in self.recipe.arms:
            first.setdefault(self._teacher_path(arm), arm)
        return list(first.values())

    def _fingerprints(self) -> dict[str, dict[str, str]]:
        return {arm.name: fingerprints(self._run_recipe(arm, 0), self._prepare(arm)) for arm in self.recipe.arms}

    def _missing_undistilled(self) -> list[_Work]:
        return [] if self._baselines.has(UNDISTILLED) else [("undistilled", self.recipe.arms[0].name, 0)]

    def _missing_end_points(self) -> list[_Work]:
        arms = self._arm_of_each_teacher()
        missing = [arm for arm in arms if not self._baselines.has(teacher_stem(model_name(self._teacher_path(arm))))]
        return [("baseline", arm.name, 0) for arm in missing]

    def _missing_answers(self, arms: list[ArmConfig]) -> list[_Work]:
        """One piece a store that unfinished arms need; a store that is complete is seen to be so at once."""
        first: dict[Path, ArmConfig] = {}
        for arm in arms:
            if arm.resolved().answers == "teacher":
                first.setdefault(self._answers_folder(arm), arm)
        return [("answers", arm.name, 0) for arm in first.values()]

    def _require_admitted(self) -> None:
        for arm in self.recipe.arms:
            admit(self._run_recipe(arm, 0), self._prepare(arm), demonstrate_mismatch=self.demonstrate_mismatch)
        self._require_distinct_teachers()

    def _require_distinct_teachers(self) -> None:
        paths = [self._teacher_path(arm) for arm in self._arm_of_each_teacher()]
        names = [model_name(path) for path in paths]
        if len(set(names)) != len(names):
            raise ConfigError(
                "Two teachers of the study have the same name, so their results could not be told apart.",
                facts=[f"{name}: {path}" for name, path in zip(names, paths, strict=True)],
                fix="rename one of the folders",
            )

    def _run_recipe(self, arm: ArmConfig, seed: int) -> RunRecipe:
        return self.recipe.run_recipe(arm, seed, str(self._folder(arm, seed)))

    def _prepare(self, arm: ArmConfig) -> RunInputs:
        """Tokenizers and rows of an arm: the same for all arms with the same teacher.

        All arms are judged on the same held-out rows: those that fit whole for every teacher of the study.
        """
        if not self._prepared:
            pairs: dict[str, RunInputs] = {}
            for other in self.recipe.arms:
                key = self._teacher_key(other)
                if key not in pairs:
                    pairs[key] = load_inputs(self._run_recipe(other, 0))
            common = set.intersection(*(inputs.held_out_keys for inputs in pairs.values()))
            self._prepared = {key: inputs.judged_on(common) for key, inputs in pairs.items()}
        return self._prepared[self._teacher_key(arm)]

    def _teacher_key(self, arm: ArmConfig) -> str:
        return self._teacher_of(arm).model_dump_json(include={"path", "cache", "tokenizer", "revision", "dtype"})

    def _answers_folder(self, arm: ArmConfig) -> Path:
        teacher = self._teacher_of(arm)
        settings = arm.teacher_answers or self.recipe.teacher_answers
        text = teacher.model_dump_json() + settings.model_dump_json(exclude={"keep_cut_off"})
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Path(self.recipe.output) / "answers" / f"{model_name(teacher.source)}-{digest}"


_studies: dict[str, Study] = {}


def _in_worker(study: Study, kind: str, arm_name: str, seed: int) -> None:
    """One piece in a process of its own, which keeps the study of its first piece, and so what that has loaded."""
    _studies.setdefault("the study", study).do(kind, arm_name, seed)
