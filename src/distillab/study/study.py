"""Run a study: methods × seeds on the same rows, under one budget, evaluated by one protocol.

folder/
  study.json       the resolved recipe
  made/            the student before training, where it is made from its teacher
  answers/         the teachers' answers, one store a teacher and decoding
  corrected_teachers/  the teachers after their correction, one run each
  cache/           the teachers' signals on the rows, one location a teacher (see `caches`)
  served/          what servers were asked, and answered, one folder a purpose
  baselines/       the undistilled student, the teachers
  runs/ARM/seedN/  one run each (see `run`)
  own_text/        the teachers' figures on the students' generated answers
  doctor.json      what the doctor found before the first run, unless it was skipped
  results.json     the records of all, from which the report is made
  report.md, report.html  written while the study runs, and at its end
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from distillab.config.study import ArmConfig
from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError
from distillab.evaluation.references import reference_lines
from distillab.records import (
    RESULTS,
    Baseline,
    Investigation,
    ReferenceLines,
    RunCost,
    RunRecord,
    StudyResults,
    read_record,
    write_record,
)
from distillab.runs.folder import RECORD, claim, require_claimable
from distillab.runs.inputs import RunInputs
from distillab.runs.lock import held, require_free, worker_lock
from distillab.runs.pruned import keep_student
from distillab.runs.run import execute
from distillab.runs.several import open_teacher
from distillab.runs.signals import write_part
from distillab.runs.stored_signals import NOTHING_STORED, StoredSignals
from distillab.runs.teacher import RunTeacher
from distillab.study.baselines import UNDISTILLED, Baselines, teacher_stem
from distillab.study.caches import OTHERWISE
from distillab.study.corrections import correct_teachers
from distillab.study.order import OneRun, first_comparison, in_stages
from distillab.study.own_text import OWN_TEXT, lacking_own_text, measure_own_text, with_own_text
from distillab.study.plan import StudyPlan
from distillab.study.ray_workers import RayWorkers, wait_until_seen
from distillab.study.results import assemble
from distillab.study.so_far import ResultsSoFar
from distillab.study.teachers import (
    PartArm,
    arm_of_each_evaluated,
    in_full_precision,
    one_teacher_each,
)
from distillab.study.workers import Workers, do_in_worker
from distillab.teachers.served.journal import FOLDER as SERVED
from distillab.teachers.spec import teacher_name
from distillab.teachers.stored.location import Part
from distillab.training.trackers import require_trackers


@dataclass
class Study(StudyPlan):
    """Plan and run one study. It resumes after an interruption and repeats no finished run.

    Args:
        recipe, collators, needs_weights: see `StudyPlan`.
        reproduce: the command that repeats it, for the report.
        investigation: what the doctor found; kept in the folder and in the results.
        engine: local: its jobs run here, side by side in `workers` processes; ray: on the nodes of a cluster.
        on_results: gets the results of the finished runs while the study runs, from the first comparison on.
    """

    reproduce: str
    investigation: Investigation | None = None
    engine: Literal["local", "ray"] = "local"
    on_results: Callable[[StudyResults], None] | None = None
    _corrected: dict[str, RunCost] = field(default_factory=dict)  # path of a teacher -> what its correction took

    @property
    def doctor_record(self) -> Path:
        """The file with the doctor's findings before the first run."""
        return Path(self.recipe.output) / "doctor.json"

    def require_runnable(self) -> None:
        """Check all that can be checked before a weight is loaded. Nothing is written.

        Raises:
            TokenizerMismatch: an arm's method is not admitted.
            ConfigError: the folder holds another study, another process writes into it, or two teachers have one name;
                or gpus_per_run would have no effect.
        """
        if self.engine == "local" and self.recipe.gpus_per_run is not None:
            raise ConfigError(
                "Only Ray gives GPUs to runs, and this study runs on this machine.",
                where="gpus_per_run",
                fix="add --engine ray, or remove gpus_per_run",
            )
        require_trackers(self.recipe.training.report_to)
        self._require_admitted()
        folder = Path(self.recipe.output)
        require_claimable(folder, self.recipe, fingerprints=self._fingerprints())
        require_free(folder)

    def run(self) -> StudyResults:
        """Run all unfinished runs, and assemble the results.

        Raises:
            TokenizerMismatch, ConfigError: see `require_runnable`.
        """
        self.require_runnable()
        with held(Path(self.recipe.output)):
            return self._run()

    def _run(self) -> StudyResults:
        claim(Path(self.recipe.output), self.recipe, fingerprints=self._fingerprints())
        if self.investigation is not None:
            write_record(self.investigation, self.doctor_record)
        with self._workers() as workers:
            recipe, costs = correct_teachers(self.recipe, self.inputs, partial(self._do, workers))
            learned_from = {one.source for arm in recipe.arms for one in recipe.teachers_of(arm).values()}
            others = [arm for arm in self._arm_of_each_teacher() if self._teacher_of(arm).source not in learned_from]
            missing = [arm for arm in self._arms_of_missing_teachers() if arm in others]
            self._do(workers, [partial(Study.teacher, arm=arm) for arm in missing])
        study = replace(self, recipe=recipe, _loaded={}, _corrected=costs) if costs else self
        return study._run_all([self.teacher(arm) for arm in others])

    def _run_all(self, other_teachers: Sequence[Baseline]) -> StudyResults:
        with self._workers() as workers:
            number = workers.number if isinstance(workers, RayWorkers) else self.recipe.workers
            for stage in in_stages(self._runs(), self._unfinished(), workers=number) or [[]]:
                self._make_what_is_shared(workers, stage)
                undistilled = [] if self._baselines.has(UNDISTILLED) else [Study.undistilled]
                runs = [partial(Study.execute, arm=arm, seed=seed) for arm, seed in stage]
                self._do(workers, [*runs, *undistilled])
            if self.engine == "ray":
                wait_until_seen(self._has_all, Path(self.recipe.output))
            if lacking_own_text(self._own_text, self._finished()):
                self._do(workers, [Study.measure_own_text])
        baselines = [self.undistilled(), *other_teachers, *self._teachers()]
        results = self._assemble([record for _, record in self._finished()], baselines)
        write_record(results, Path(self.recipe.output) / RESULTS)
        return results

    def _assemble(self, records: Sequence[RunRecord], baselines: Sequence[Baseline]) -> StudyResults:
        records = [with_own_text(self._own_text, record) for record in records]
        return assemble(
            self.recipe,
            self.inputs(self.recipe.arms[0]),
            baselines=baselines,
            records=records,
            caches=self.caches.used(records),
            contracts=self._contracts(),
            references=self._references,
            reproduce=self.reproduce,
            investigation=self.investigation,
        )

    @cached_property
    def _references(self) -> ReferenceLines:
        inputs = self.inputs(self.recipe.arms[0])
        return reference_lines(inputs.train.rows, inputs.eval_rows, vocabulary=len(inputs.student.tokenizer))

    @cached_property
    def _so_far(self) -> ResultsSoFar | None:
        if self.on_results is None:
            return None
        return ResultsSoFar(
            lambda: len(self._runs()) - len(self._unfinished()), self._results_so_far, show=self.on_results
        )

    def _results_so_far(self) -> StudyResults | None:
        """Return the results of the finished runs; None while the first comparison, or all runs, are not finished."""
        left = self._unfinished()
        if not left or any(run in left for run in first_comparison(self._runs())):
            return None
        records = [read_record(RunRecord, self._folder(*run) / RECORD) for run in self._runs() if run not in left]
        untrained = [self.undistilled()] if self._baselines.has(UNDISTILLED) else []
        missing = self._arms_of_missing_teachers()
        return self._assemble(records, [*untrained, *self._teachers(without=missing)])

    def execute(self, arm: ArmConfig, seed: int) -> RunRecord:
        """Make one run, or return its record where it is finished."""
        return execute(
            self.inputs(arm, seed),
            answers_folder=self._answers_folder(arm),
            arm=arm.name,
            collator=self.collators.get(arm.name),
            stored=self._stored(arm),
            correction=self._correction_of(arm),
        )

    def undistilled(self) -> Baseline:
        """Evaluate the student as it is before any training (a random one: with the first seed)."""
        arm = self.recipe.arms[0]
        inputs = self.inputs(arm, self.recipe.seeds[0])
        # a cache does not contain its generated answers
        loadable = all(teacher.has_weights for teacher in self.recipe.teachers_of(arm).values())
        stored = NOTHING_STORED if loadable else self._stored(arm)
        return self._baselines.undistilled(inputs, open_teacher(inputs, stored))

    def teacher(self, arm: ArmConfig) -> Baseline:
        """Evaluate the arm's teacher."""
        inputs = self.inputs(arm, self.recipe.seeds[0])
        stem = teacher_stem(teacher_name(self._teacher_of(arm)))
        return self._baselines.teacher(inputs, self._open(inputs, stem), self._correction_of(arm))

    def _teachers(self, without: Sequence[ArmConfig] = ()) -> list[Baseline]:
        """Evaluate every teacher; of a quantised one, compare it with its weights in full precision."""
        evaluated = [arm for arm in arm_of_each_evaluated(self.recipe) if arm not in without]
        found = {teacher_name(self._teacher_of(arm)): self.teacher(arm) for arm in evaluated}
        for arm in self._arm_of_each_teacher():
            teacher = self._teacher_of(arm)
            name, full = teacher_name(teacher), teacher_name(in_full_precision(teacher))
            if name != full and name in found and full in found:
                found[name] = self._baselines.compared(found[name], found[full])
        return list(found.values())

    def answers(self, arm: ArmConfig) -> EncodedSplit:
        """Return the rows with the answers of the arm's teacher, which generates those that are missing.

        They are kept in the store that all seeds share.
        """
        store = self._answers_folder(arm)
        teacher = self._open(self.inputs(arm, self.recipe.seeds[0]), f"answers-{store.name}")
        return teacher.training_rows(store)[0]

    def _open(self, inputs: RunInputs, what: str) -> RunTeacher:
        """Return a teacher; of a server, what it answers for one purpose is kept in one folder."""
        return RunTeacher(inputs, served_in=Path(self.recipe.output) / SERVED / what)

    def _stored(self, arm: ArmConfig) -> StoredSignals:
        """Return where the runs of an arm find what is stored of their teachers."""
        parts = [one for one in one_teacher_each(self.recipe, [arm]) if isinstance(one, PartArm)]
        if not parts:
            return self.caches.stored(arm)
        return StoredSignals(
            parts={one.part: self.caches.stored(one) for one in parts},
            answers={one.part: self._answers_folder(one) for one in parts},
        )

    def _correction_of(self, arm: ArmConfig) -> RunCost | None:
        sources = [teacher.source for teacher in self.recipe.teachers_of(arm).values()]
        return self._corrected.get(sources[0]) if len(sources) == 1 else None

    def measure_own_text(self) -> None:
        """Measure the teacher's figures on the generated answers of the runs that read a cache."""
        measure_own_text(self._own_text, self._finished())

    def write_answers(self, arm: ArmConfig, worker: int, workers: int) -> None:
        """Generate one share of the answers of the arm's teacher, for all runs that train on them."""
        store = self._answers_folder(arm)
        teacher = self._open(self.inputs(arm, self.recipe.seeds[0]), f"answers-{store.name}")
        teacher.write_answers(store, worker=worker, workers=workers)

    def build(self, arm: ArmConfig, part: Part, worker: int = 0, workers: int = 1) -> None:
        """Record the signals of the arm's teacher on some rows, or one share of them, for all runs that read them."""
        inputs = self.inputs(arm)
        rows = inputs.require_teacher().rows(self.answers(arm)) if part == "answers" else ()
        job = self.caches.job(arm, part, rows)
        # several studies can keep their caches in one folder
        with held(job.folder, worker_lock(worker, workers)):
            teacher = self._open(inputs, job.location.name).source()
            write_part(
                job,
                teacher=teacher,
                settings=self.recipe.cache,
                worker=worker,
                workers=workers,
                otherwise=OTHERWISE,
            )

    @property
    def _baselines(self) -> Baselines:
        return Baselines(Path(self.recipe.output) / "baselines")

    def _make_what_is_shared(self, workers: Workers | RayWorkers, runs: Sequence[OneRun]) -> None:
        """Make the student, baselines, answers and caches, so that no two of these runs make the same thing."""
        keep_student(self.inputs(self.recipe.arms[0]))
        arms = [arm for arm in self.recipe.arms if any(arm == other for other, _ in runs)]
        evaluated = arms if arms or self._baselines.has(UNDISTILLED) else [self.recipe.arms[0]]
        first: list[tuple[ArmConfig, Part]] = [(arm, "train") for arm in self.caches.missing("train", arms)]
        first += [(arm, "held_out") for arm in self.caches.missing("held_out", evaluated)]
        second: list[tuple[ArmConfig, Part]] = [(arm, "answers") for arm in self.caches.missing("answers", arms)]
        self.caches.require_space([*first, *second])
        teachers = [partial(Study.teacher, arm=arm) for arm in self._arms_of_missing_teachers()]
        stages = [one for arm in arms if (one := arm.first_stage(self.recipe.student.init)) is not None]
        writing = self._arms_of_answers(one_teacher_each(self.recipe, [*arms, *stages]))
        answers = [job for arm in writing for job in self._shares(Study.write_answers, arm)]
        builds = [job for arm, part in first for job in self._shares(partial(Study.build, part=part), arm)]
        self._do(workers, [*teachers, *answers, *builds])
        # their rows have the answers that were just generated
        self._do(workers, [job for arm, part in second for job in self._shares(partial(Study.build, part=part), arm)])

    def _shares(self, make: Callable[..., None], arm: ArmConfig) -> list[Callable[[Study], object]]:
        """Return the jobs that make something of a teacher; on a cluster each worker makes a share of it.

        On one machine they would load the same weights several times; and a server is one place anyway.
        """
        on_cluster = self.engine == "ray" and self._teacher_of(arm).server is None
        shards = -(-len(self.inputs(arm).train.rows) // self.recipe.cache.rows_per_shard)
        workers = max(1, min(self.recipe.workers, shards)) if on_cluster else 1
        return [partial(make, arm=arm, worker=worker, workers=workers) for worker in range(workers)]

    def _workers(self) -> Workers | RayWorkers:
        recipe = self.recipe
        if self.engine == "local":
            return Workers(recipe.workers)
        return RayWorkers(Path(recipe.output), number=recipe.workers, gpus=recipe.gpus_per_run)

    def _finished(self) -> list[tuple[RunInputs, RunRecord]]:
        """Return all runs with their records; those that are not finished are made now."""
        return [(self.inputs(*run), self.execute(*run)) for run in self._runs()]

    def _has_all(self) -> bool:
        """Return whether all that the results are made of is seen in the folder."""
        return not self._unfinished() and self._baselines.has(UNDISTILLED) and not self._arms_of_missing_teachers()

    @property
    def _own_text(self) -> Path:
        return Path(self.recipe.output) / OWN_TEXT

    def _do(self, workers: Workers | RayWorkers, work: Sequence[Callable[[Study], object]]) -> None:
        """Run several jobs of the study, whose results are on disk afterwards."""
        if self.engine == "local" and (self.recipe.workers == 1 or len(work) < 2):
            for job in work:
                job(self)
                self._show_so_far()
            return
        # loaded objects are not pickled, and this process alone shows results
        bare = replace(self, _loaded={}, on_results=None)
        jobs = [partial(do_in_worker, bare, job) for job in work]
        workers.run(jobs, meanwhile=self._show_so_far)

    def _show_so_far(self) -> None:
        if self._so_far is not None:
            self._so_far.update()

    def _arms_of_missing_teachers(self) -> list[ArmConfig]:
        """Return one arm for each teacher that is not evaluated yet."""
        arms = arm_of_each_evaluated(self.recipe)
        return [arm for arm in arms if not self._baselines.has(teacher_stem(teacher_name(self._teacher_of(arm))))]
