"""Execute one run: one student, one method, one seed, one folder with all its files.

folder/
  recipe.json      the resolved recipe
  metrics.jsonl    every step, and the learning curve
  checkpoints/     for resuming; removed when the run is finished
  warm_start/      the first of two stages: a run of its own
  made/            the student before training, where it is made from its teacher, unless a study shares it
  corrected_teachers/  the teacher after its correction, where the recipe has one: a run of its own
  answers/         the teacher's answers (sequence-level KD), unless a study shares them
  transport.safetensors    what was counted of the training rows in both tokenisations, if a term reads it
  projectors.safetensors  the projectors of terms on activations, if there are any
  student/         the trained model and its tokenizer
  held_out.jsonl   nats of every held-out row, and the generated answers
  run.json         the record; written last, so a folder without it is not finished
"""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from distillab.config.run import RunRecipe
from distillab.data.encoding import EncodedSplit
from distillab.errors import NumericsError
from distillab.evaluation.protocol import EvaluationResult, evaluate, require_finite_figures
from distillab.evaluation.references import reference_lines
from distillab.files import require_space
from distillab.models.adapters import learning, merged
from distillab.models.gguf import quantization_of
from distillab.models.loading import load_config
from distillab.models.saving import round_weights, save_student, saved_dtype
from distillab.models.sharded import full_tensors, is_sharded
from distillab.models.structure import is_adapted
from distillab.paths import is_local
from distillab.processes import Processes, join_processes
from distillab.records import (
    AnswerStoreCounts,
    EncodingCounts,
    ReferenceLines,
    RunCost,
    RunRecord,
    ServedCost,
    SpanCounts,
    TeacherProvenance,
    TransportRecord,
    write_record,
)
from distillab.runs.budget import spending_for
from distillab.runs.correction import corrected_recipe, correction_recipe, cost_of_correction
from distillab.runs.environment import environment, peak_rss_bytes
from distillab.runs.folder import (
    HELD_OUT,
    RECORD,
    STUDENT,
    TRANSPORT,
    claim,
    files_left,
    read_finished,
    require_claimable,
    write_held_out,
)
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.journal import Measurements, read_journal
from distillab.runs.lock import held, require_free
from distillab.runs.parallel import parallel_notes, require_processes
from distillab.runs.peers import watched_processes
from distillab.runs.pruned import keep_student
from distillab.runs.rollouts import rollout_notes, rollout_record
from distillab.runs.several import open_teacher
from distillab.runs.signals import require_given
from distillab.runs.stages import staged_note, with_first_stage
from distillab.runs.stored_signals import StoredSignals, stored_signals
from distillab.runs.student import load_student
from distillab.runs.teacher import RunTeacher
from distillab.runs.training import train_student
from distillab.runs.training_data import MakeCollator, streamed_data, training_data, transport_record
from distillab.teachers.served.journal import file_of
from distillab.training.trackers import require_trackers


def execute(
    run: RunRecipe | RunInputs,
    *,
    answers_folder: Path | None = None,
    arm: str | None = None,
    collator: MakeCollator | None = None,
    stored: StoredSignals | None = None,
    correction: RunCost | None = None,
) -> RunRecord:
    """Run a recipe, or resume it, or return its record if it is finished.

    Args:
        run: the recipe; or its inputs, if they are loaded already.
        answers_folder: where the teacher's answers are kept; default: inside the run's folder.
        arm: name of the arm in its study; default: the method.
        collator: makes the training batches instead of the usual one (the demo's broken ones).
        stored: where cached signals of the teacher are; default: the recipe's teacher.cache.
        correction: what it took to correct the teacher, where the study of the run did it.
    Raises:
        TokenizerMismatch: the pair does not allow the method; raised before any weight is loaded.
        ConfigError: the folder holds a run of another recipe, or of files that have changed since; or another process
            writes into it; or the recipe divides a model over another number of processes.
        DataError: files of this run in the folder are damaged.
        CacheMismatch, CacheCorrupt: the cache is of another teacher or other rows, or is damaged.
        NumericsError: a loss, a gradient, a weight or a held-out figure is not finite.
        Interrupted: a signal came; finished work is kept.
    """
    recipe = run if isinstance(run, RunRecipe) else run.recipe
    require_processes(recipe)
    require_trackers(recipe.training.report_to)
    processes = join_processes(cpu=recipe.training.device == "cpu")
    with watched_processes():
        inputs = load_inputs(run) if isinstance(run, RunRecipe) else run
        recipe = inputs.recipe
        folder, arm = Path(recipe.output), arm or recipe.method
        inputs.admit()
        require_given(inputs)
        with processes.main_process_first():
            files = inputs.fingerprints()
        if processes.is_main_process:
            require_claimable(folder, recipe, fingerprints=files)
        # only the first process of a run locks the folder
        with held(folder) if processes.is_main_process else nullcontext():
            with processes.main_process_first():
                identity = claim(folder, recipe, fingerprints=files)
                finished = read_finished(folder, arm=arm, seed=recipe.seed, identity=identity)
            if finished is not None:
                return finished
            if recipe.teacher_correction is not None:
                first = correction_recipe(inputs, recipe.teacher_correction, folder / "corrected_teachers")
                correction = cost_of_correction(execute(first))
                inputs = replace(load_inputs(corrected_recipe(recipe, first)), made_in=inputs.made_in)
            answers = answers_folder or folder / "answers"
            stage = None
            if inputs.recipe.staged is not None:
                begins, goes_on = inputs.recipe.staged
                stage = execute(inputs.with_recipe(begins), answers_folder=answers, arm=arm)
                inputs = replace(inputs.with_recipe(goes_on), starts_from=Path(begins.output) / STUDENT)
            claimed = _Claimed(inputs, recipe, folder, arm, identity, files, answers, correction, stage)
            try:
                return claimed.execute(stored or stored_signals(inputs), collator=collator)
            except NumericsError as error:  # the message has the step; in a study the run is needed too
                facts = [f"run {recipe.name} in {folder}", *error.facts]
                raise NumericsError(error.rule, where=error.where, facts=facts, fix=error.fix) from error


def require_runnable(inputs: RunInputs) -> None:
    """Check all that can be checked of a run before a weight is loaded. Nothing is written.

    Raises:
        TokenizerMismatch, ConfigError, CacheMismatch: see `execute`.
    """
    require_trackers(inputs.recipe.training.report_to)
    inputs.admit()
    require_given(inputs)
    folder = Path(inputs.recipe.output)
    require_claimable(folder, inputs.recipe, fingerprints=inputs.fingerprints())
    require_free(folder)


@dataclass(frozen=True)
class _Trained:
    """The result of training, and what it read of the teacher."""

    student: PreTrainedModel
    references: ReferenceLines
    signals: Literal["none", "online", "cached"]
    counts: EncodingCounts
    spans: SpanCounts | None
    transport: TransportRecord | None
    notes: tuple[str, ...]
    steps: int
    spent: float | None


@dataclass(frozen=True)
class _Claimed:
    """A run whose folder is locked by this process.

    Attributes:
        inputs: with the teacher that the student learns from.
        recipe: with the teacher as the user names it.
        correction: what it took to correct the teacher.
        first: the first of two stages; None: there is one.
    """

    inputs: RunInputs
    recipe: RunRecipe
    folder: Path
    arm: str
    identity: str
    fingerprints: dict[str, str]
    answers_folder: Path
    correction: RunCost | None
    first: RunRecord | None

    @property
    def writes(self) -> bool:
        """False on all processes but the first."""
        return bool(PartialState().is_main_process)

    def execute(self, stored: StoredSignals, *, collator: MakeCollator | None) -> RunRecord:
        """Train, evaluate, save."""
        start = time.perf_counter()
        inputs, processes = self.inputs, PartialState()
        file = file_of(processes.process_index, processes.num_processes)
        teacher = open_teacher(inputs, stored, file=file)
        recipe = inputs.recipe
        with processes.main_process_first():
            made = keep_student(inputs)
        split, answers = teacher.training_rows(self.answers_folder)
        trained = self._train(teacher, split, answers, collator=collator)
        source = load_config(recipe.student.path, revision=recipe.student.revision)
        dtype = saved_dtype(recipe.student.save_dtype, source, trained.student)
        round_weights(trained.student, dtype)  # evaluate what is saved
        shared = teacher.for_evaluation()
        result = evaluate(
            trained.student,
            inputs.held_out,
            recipe.evaluation,
            reader=inputs.student,
            shared=shared,
            label=recipe.name,
            unshared=teacher.unshared,
            processes=Processes.current(),
        )
        require_finite_figures(result.record, where=f"after step {trained.steps}")
        measured = read_journal(self.folder / "metrics.jsonl", steps=trained.steps) if self.writes else Measurements()
        cost = _cost(
            measured,
            answers,
            steps=trained.steps,
            budget_spent=trained.spent,
            online=trained.signals == "online",
            wall_s=time.perf_counter() - start,
            answers_s=teacher.answers_seconds(self.answers_folder) if answers else None,
            served=teacher.served_cost,
        )
        record = RunRecord(
            name=recipe.name,
            arm=self.arm,
            method=recipe.method,
            access=inputs.method.access,
            seed=recipe.seed,
            identity=self.identity,
            config=self.recipe.model_dump(mode="json"),
            fingerprints=self.fingerprints,
            contract=inputs.contract,
            teacher=teacher.provenance,
            servers=tuple(teacher.probes),
            teacher_correction=self.correction,
            answers=answers,
            teacher_signals=trained.signals,
            caches=tuple(teacher.uses),
            notes=(
                *inputs.splits.notes,
                *teacher.notes,
                *trained.notes,
                *rollout_notes(measured.rollouts),
                *parallel_notes(recipe),
                *_quantised(recipe, teacher.provenance),
                *([f"the student is {made.line}"] if made else []),
                *([] if self.first is None else [staged_note(self.first, recipe.method, trained.steps)]),
            ),
            train_counts=trained.counts,
            spans=trained.spans,
            transport=trained.transport,
            held_out_counts=inputs.held_out_counts,
            references=trained.references,
            evaluation=result.record,
            curve=tuple(measured.curve),
            rollout=rollout_record(measured.rollouts, measured.samples),
            cost=cost,
            environment=environment(),
        )
        record = record if self.first is None else with_first_stage(record, self.first)
        return self._save(trained.student, result, record, dtype=dtype)

    def _train(
        self,
        teacher: RunTeacher,
        split: EncodedSplit,
        answers: AnswerStoreCounts | None,
        *,
        collator: MakeCollator | None,
    ) -> _Trained:
        """Train the student for its budget."""
        inputs = self.inputs
        signals = teacher.for_terms(split)
        student = load_student(inputs)
        streams = inputs.recipe.data.streaming is not None
        data = streamed_data(inputs) if streams else training_data(inputs, split, collator=collator)
        references = reference_lines(split.rows, inputs.eval_rows, vocabulary=len(inputs.student.tokenizer))
        spending = spending_for(inputs, student, teacher=teacher.provenance, answers=answers, first=self.first)
        steps = train_student(
            inputs,
            student,
            signals,
            data,
            references=references,
            identity=self.identity,
            writes=self.writes,
            spending=spending,
        )
        spent = None if spending is None else spending.used
        notes = (f"The student has {learning(student)}.",) if is_adapted(student) else _drawn_elsewhere(inputs)
        counts, spans = split.counts, data.spans
        if data.stream is not None:
            counts, spans, notes = data.stream.counts, data.stream.spans, (*notes, data.stream.note)
        transport = transport_record(data.transport)
        if self.writes and data.transport is not None:
            data.transport.save(self.folder / TRANSPORT)
        student = merged(student) if inputs.recipe.student.save_as == "merged" else student
        if signals is None:
            return _Trained(student, references, "none", counts, spans, transport, notes, steps, spent)
        kind: Literal["cached", "online"] = "cached" if teacher.trains_from_cache else "online"
        return _Trained(student, references, kind, counts, spans, transport, notes, steps, spent)

    def _save(
        self, student: PreTrainedModel, result: EvaluationResult, record: RunRecord, *, dtype: torch.dtype
    ) -> RunRecord:
        """Write the files of the run, its record last; return the record with the hashes of the others.

        Only the first process writes, and all give it their parts of the weights.
        """
        divided = is_sharded(student) and not is_adapted(student)
        weights = full_tensors(student) if divided else None
        if not self.writes:
            return record
        saved = [p for p in student.parameters() if p.requires_grad or not is_adapted(student)]
        size = sum(p.numel() * dtype.itemsize for p in saved)
        require_space(self.folder, size + (1 << 22), what="the trained student")
        reader = self.inputs.student
        stop_ids, pad_id = reader.encoder.stop_ids, reader.encoder.pad_id
        save_student(
            self.folder / STUDENT,
            student,
            reader.tokenizer,
            stop_ids=stop_ids,
            pad_id=pad_id,
            dtype=dtype,
            weights=weights,
            base_sha256=self.fingerprints["student"] if is_local(self.inputs.recipe.student.path) else None,
        )
        write_held_out(self.folder / HELD_OUT, result)
        record = record.model_copy(update={"files": files_left(self.folder)})
        write_record(record, self.folder / RECORD)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return record


def _drawn_elsewhere(inputs: RunInputs) -> tuple[str, ...]:
    own = inputs.method.own
    if own is None or own.sampler == "local":
        return ()
    return ("The student's answers were not drawn by the loop of this process: a repeated run can draw others.",)


def _quantised(recipe: RunRecipe, teacher: TeacherProvenance | None) -> list[str]:
    """Return which of the two models was loaded from quantised weights, a note each."""
    student = recipe.student
    of_student = quantization_of(student.path, student.quantization) if student.init == "pretrained" else None
    kinds = {"teacher": None if teacher is None else teacher.quantization, "student": of_student}
    return [f"the {role} was loaded from quantised weights: {kind}" for role, kind in kinds.items() if kind]


def _cost(
    measured: Measurements,
    answers: AnswerStoreCounts | None,
    *,
    steps: int,
    budget_spent: float | None,
    online: bool,
    wall_s: float,
    answers_s: float | None,
    served: ServedCost | None,
) -> RunCost:
    """Return what the run used; tokens are counted from its metrics, so they are right for a resumed run too."""
    written = answers.teacher_tokens if answers is not None else 0
    return RunCost(
        steps=steps,
        budget_spent=budget_spent,
        supervised_tokens=measured.supervised_tokens,
        student_tokens=measured.tokens,
        written_tokens=sum(int(step["tokens"]) for step in measured.rollouts),
        teacher_tokens=written + (measured.teacher_tokens if online else 0),
        wall_s=wall_s,
        answers_s=answers_s,
        served=served,
        peak_rss_bytes=peak_rss_bytes(),
    )
