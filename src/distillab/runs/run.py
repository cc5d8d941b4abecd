"""One run: one student, one method, one seed, one folder that explains it.

folder/
  recipe.json      the resolved recipe
  metrics.jsonl    every step, and the learning curve
  checkpoints/     for resuming; removed when the run is finished
  answers/         the teacher's answers (sequence-level KD), unless a study shares them
  projectors.safetensors  what learned beside the student (hidden_states), where there was such
  student/         the trained model and its tokenizer
  held_out.jsonl   nats of every held-out row, and the generated answers
  run.json         the record; written last, so a folder without it is not finished
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from distillab.config.models import RunRecipe
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedSplit
from distillab.errors import NumericsError
from distillab.evaluation.protocol import EvaluationResult, evaluate, require_finite_figures
from distillab.evaluation.references import reference_lines
from distillab.files import require_space
from distillab.models.loading import load_config, load_model, pick_device, random_model
from distillab.models.saving import round_weights, save_student, saved_dtype
from distillab.records import (
    AnswerStoreCounts,
    ReferenceLines,
    RunCost,
    RunRecord,
    SpanCounts,
    write_record,
)
from distillab.runs.answers import seconds_of, training_rows
from distillab.runs.dates import dated
from distillab.runs.environment import environment, peak_rss_bytes
from distillab.runs.finished import HELD_OUT, RECORD, STUDENT, files_left, read_finished
from distillab.runs.folder import claim, require_claimable, write_held_out
from distillab.runs.inputs import RunInputs, admit, fingerprints, load_inputs
from distillab.runs.journal import read_curve, read_journal, read_totals
from distillab.runs.lock import held
from distillab.runs.sides import uses_teacher_tokenizer
from distillab.runs.teacher import RunTeacher, StoredSignals, stored_signals
from distillab.runs.training import Watched, objective_for, train_student
from distillab.runs.training_data import training_data
from distillab.teachers.cached import CachedTeacher


def execute(
    recipe: RunRecipe,
    *,
    inputs: RunInputs | None = None,
    answers_folder: Path | None = None,
    arm: str = "",
    demonstrate_mismatch: bool = False,
    demonstrates: str | None = None,
    collator: Callable[[int], Collator] | None = None,
    stored: StoredSignals | None = None,
) -> RunRecord:
    """Run a recipe to its end, or go on where an earlier try stopped, or return what is finished.

    Args:
        inputs: the checked tokenizers and rows, where a study has them already.
        answers_folder: where the teacher's answers are kept; default: inside the run's folder.
        arm: name of the arm in its study; default: the method.
        demonstrate_mismatch: let an index-by-index loss run on tokens that do not mean the same, and
            mark the record.
        demonstrates: what failure this run shows, where the caller planted one.
        collator: makes the training batches instead of the usual one (the demo's broken ones); given the
            padding id.
        stored: where what the teacher said is stored; default: where the recipe's teacher.cache says.
    Raises:
        TokenizerMismatch: the pair does not allow the method; raised before any weight is loaded.
        ConfigError: the folder holds a run of another recipe, or of files that have changed since; or another process
            writes into it.
        DataError: what the folder holds of this run is damaged.
        CacheMismatch, CacheCorrupt: the cache is of another teacher or other rows, or is damaged.
        NumericsError: a loss, a gradient, a weight or a held-out figure is not finite.
        Interrupted: a signal came; what was done is kept.
    """
    recipe = dated(recipe)
    folder = Path(recipe.output)
    processes = PartialState(cpu=recipe.training.device == "cpu")
    inputs = inputs or load_inputs(recipe)
    mismatch = admit(recipe, inputs, demonstrate_mismatch=demonstrate_mismatch)
    if mismatch:
        demonstrates = "logit KD by index between tokens that do not mean the same (--demonstrate-mismatch)"
    with processes.main_process_first():
        files = fingerprints(recipe, inputs)
    if processes.is_main_process:
        require_claimable(folder, recipe, fingerprints=files, demonstrates=demonstrates)
    # of the processes of one run the first holds the folder
    with held(folder) if processes.is_main_process else nullcontext():
        with processes.main_process_first():
            identity = claim(folder, recipe, fingerprints=files, demonstrates=demonstrates)
            finished = read_finished(folder, arm=arm or recipe.method, seed=recipe.seed, identity=identity)
        if finished is not None:
            return finished
        try:
            return _executed(
                recipe,
                inputs,
                files,
                answers_folder=answers_folder or folder / "answers",
                arm=arm or recipe.method,
                identity=identity,
                demonstrates=demonstrates,
                collator=collator,
                stored=stored,
            )
        except NumericsError as error:  # it knows the step; of a study the run must be known too
            facts = [f"run {recipe.name} in {folder}", *error.facts]
            raise NumericsError(error.rule, where=error.where, facts=facts, fix=error.fix) from error


def _executed(
    recipe: RunRecipe,
    inputs: RunInputs,
    files: dict[str, str],
    *,
    answers_folder: Path,
    arm: str,
    identity: str,
    demonstrates: str | None,
    collator: Callable[[int], Collator] | None,
    stored: StoredSignals | None,
) -> RunRecord:
    """The run itself, in a folder that this process holds."""
    folder, processes = Path(recipe.output), PartialState()
    start = time.perf_counter()
    device = pick_device(recipe.training.device)
    teacher = RunTeacher(recipe, inputs, device=device, stored=stored or stored_signals(recipe, inputs))
    with processes.main_process_first():
        split, answers = training_rows(recipe, inputs, teacher, answers_folder)
    writes = processes.is_main_process
    trained = _train(recipe, inputs, teacher, split, collator=collator, identity=identity, writes=writes)
    dtype = _saved_dtype(recipe, trained.student)
    round_weights(trained.student, dtype)  # what is judged is what is saved
    judged = evaluate(
        trained.student,
        inputs.held_out,
        recipe.evaluation,
        reader=inputs.student,
        shared=teacher.for_evaluation(),
        label=recipe.name,
    )
    require_finite_figures(judged.record, where=f"after step {recipe.training.steps}")
    online = trained.signals == "online"
    lines = read_journal(folder / "metrics.jsonl", steps=recipe.training.steps) if writes else []
    record = RunRecord(
        name=recipe.name,
        arm=arm,
        method=recipe.method,
        access=recipe.resolved().access,
        seed=recipe.seed,
        demonstrates=demonstrates,
        identity=identity,
        config=recipe.model_dump(mode="json"),
        fingerprints=files,
        contract=inputs.contract,
        teacher=teacher.provenance,
        answers=answers,
        teacher_signals=trained.signals,
        caches=tuple(teacher.uses),
        notes=(*inputs.splits.notes, *teacher.notes),
        train_counts=split.counts,
        spans=trained.spans,
        held_out_counts=inputs.held_out_counts,
        references=trained.references,
        evaluation=judged.record,
        curve=read_curve(lines),
        cost=_cost(
            recipe,
            lines,
            answers,
            online=online,
            wall_s=time.perf_counter() - start,
            answers_s=seconds_of(answers_folder) if answers is not None and teacher.text is None else None,
        ),
        environment=environment(),
    )
    return _save(folder, trained.student, inputs, judged, record, dtype=dtype) if writes else record


@dataclass(frozen=True)
class _Trained:
    """What training leaves, and what it read of the teacher."""

    student: PreTrainedModel
    references: ReferenceLines
    signals: Literal["none", "online", "cached"]
    spans: SpanCounts | None


def _train(
    recipe: RunRecipe,
    inputs: RunInputs,
    teacher: RunTeacher,
    split: EncodedSplit,
    *,
    collator: Callable[[int], Collator] | None,
    identity: str,
    writes: bool,
) -> _Trained:
    """The student after its budget."""
    signals = teacher.for_terms(split)
    student = load_student(recipe, pick_device(recipe.training.device))
    objective = objective_for(
        recipe,
        student,
        signals,
        shared_width=inputs.compared_width(recipe),
        vocabularies=inputs.vocabularies if uses_teacher_tokenizer(recipe) else None,
    )
    data = training_data(recipe, inputs, split, collator=collator)
    references = reference_lines(
        split.rows, inputs.held_out.first(recipe.evaluation.rows).rows, vocabulary=len(inputs.student.tokenizer)
    )
    train_student(
        recipe,
        student,
        signals,
        data,
        objective=objective,
        watched=Watched(
            inputs.held_out.first(recipe.evaluation.curve_rows),
            inputs.student.collator(recipe.training.padding_side),
            references,
        ),
        identity=identity,
        writes=writes,
    )
    if signals is None:
        return _Trained(student, references, "none", data.spans)
    return _Trained(student, references, "cached" if isinstance(signals, CachedTeacher) else "online", data.spans)


def _cost(
    recipe: RunRecipe,
    lines: list[dict[str, Any]],
    answers: AnswerStoreCounts | None,
    *,
    online: bool,
    wall_s: float,
    answers_s: float | None,
) -> RunCost:
    """What the run used; tokens are counted from its metrics, so that they are right for a resumed run too."""
    supervised, tokens, theirs = read_totals(lines)
    written = answers.teacher_tokens if answers is not None else 0
    return RunCost(
        steps=recipe.training.steps,
        supervised_tokens=supervised,
        student_tokens=tokens,
        teacher_tokens=written + (theirs if online else 0),
        wall_s=wall_s,
        answers_s=answers_s,
        peak_rss_bytes=peak_rss_bytes(),
    )


def load_student(recipe: RunRecipe, device: torch.device) -> PreTrainedModel:
    """The student before training: its pretrained weights, or weights drawn from the run's seed."""
    settings = recipe.student
    torch.manual_seed(recipe.seed)
    if settings.init == "random":
        return random_model(
            settings.path, seed=recipe.seed, dtype=settings.dtype, device=device, revision=settings.revision
        )
    return load_model(settings.path, dtype=settings.dtype, device=device, revision=settings.revision, role="student")


def _saved_dtype(recipe: RunRecipe, student: PreTrainedModel) -> torch.dtype:
    source = load_config(recipe.student.path, revision=recipe.student.revision)
    return saved_dtype(recipe.student.save_dtype, source, student)


def _save(
    folder: Path,
    student: PreTrainedModel,
    inputs: RunInputs,
    judged: EvaluationResult,
    record: RunRecord,
    *,
    dtype: torch.dtype,
) -> RunRecord:
    """Write what the run leaves, its record last, and give the record with the hashes of the rest."""
    weights = sum(p.numel() * dtype.itemsize for p in student.parameters())
    require_space(folder, weights + (1 << 22), what="the trained student")
    reader = inputs.student
    stop_ids, pad_id = reader.encoder.stop_ids, reader.encoder.pad_id
    save_student(folder / STUDENT, student, reader.tokenizer, stop_ids=stop_ids, pad_id=pad_id, dtype=dtype)
    write_held_out(folder / HELD_OUT, judged)
    record = record.model_copy(update={"files": files_left(folder)})
    write_record(record, folder / RECORD)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record
