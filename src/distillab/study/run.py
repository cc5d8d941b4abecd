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
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from distillab.config.models import RunRecipe
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError
from distillab.evaluation.likelihood import SharedTeacher
from distillab.evaluation.protocol import Judged, evaluate
from distillab.evaluation.references import reference_lines
from distillab.models.loading import context_length, load_model, pick_device, random_model
from distillab.objectives.term import Objective
from distillab.places import require_space
from distillab.records import (
    AnswerStoreCounts,
    RunCost,
    RunRecord,
    write_record,
)
from distillab.study.environment import environment, peak_rss_bytes
from distillab.study.folder import claim, write_held_out
from distillab.study.journal import read_curve, read_totals
from distillab.study.learning import Watched, objective_for, train_student
from distillab.study.prepare import Prepared, admit, fingerprints, prepare
from distillab.teachers.answers import Prompt, askable, generate_store, keep_usable, store_provenance
from distillab.teachers.local import LocalTeacher, load_local


def execute(
    recipe: RunRecipe,
    *,
    prepared: Prepared | None = None,
    answers_folder: Path | None = None,
    arm: str = "",
    demonstrate_mismatch: bool = False,
    demonstrates: str | None = None,
    collator: Callable[[int], Collator] | None = None,
) -> RunRecord:
    """Run a recipe to its end, or go on where an earlier try stopped, or return what is finished.

    Args:
        prepared: the checked tokenizers and rows, where a study has them already.
        answers_folder: where the teacher's answers are kept; default: inside the run's folder.
        arm: name of the arm in its study; default: the method.
        demonstrate_mismatch: let an index-by-index loss run on tokens that do not mean the same, and
            mark the record.
        demonstrates: what failure this run shows, where the caller planted one.
        collator: makes the training batches instead of the usual one (the demo's broken ones); given the
            padding id.
    Raises:
        TokenizerMismatch: the pair does not allow the method; raised before any weight is loaded.
        ConfigError: the folder holds a run of another recipe, or of files that have changed since.
    """
    folder = Path(recipe.output)
    processes = PartialState(cpu=recipe.training.device == "cpu")
    prepared = prepared or prepare(recipe)
    mismatch = admit(recipe, prepared, demonstrate_mismatch=demonstrate_mismatch)
    if mismatch:
        demonstrates = "logit KD by index between tokens that do not mean the same (--demonstrate-mismatch)"
    with processes.main_process_first():
        files = fingerprints(recipe, prepared)
        finished = claim(folder, recipe, fingerprints=files, demonstrates=demonstrates)
    if finished is not None:
        return finished
    start = time.perf_counter()
    device = pick_device(recipe.training.device)
    teacher = load_teacher(recipe, prepared, device)
    with processes.main_process_first():
        split, answer_counts = training_rows(recipe, prepared, teacher, answers_folder or folder / "answers")
    # for a demonstration the ids are compared all the same, up to the smaller vocabulary
    width = _index_width(prepared) if mismatch else prepared.shared_width
    student = load_student(recipe, device)
    objective = objective_for(recipe, student, teacher, shared_width=width)
    references = reference_lines(
        split.rows, prepared.held_out.first(recipe.evaluation.rows).rows, vocabulary=len(prepared.student.tokenizer)
    )
    training = recipe.training
    usual = prepared.student.collator(training.padding_side, packing=training.packing)
    train_student(
        recipe,
        student,
        teacher,
        split,
        objective=objective,
        collator=collator(prepared.student.encoder.pad_id) if collator else usual,
        watched=Watched(
            prepared.held_out.first(recipe.evaluation.curve_rows),
            prepared.student.collator(training.padding_side),
            references,
        ),
        writes=processes.is_main_process,
    )
    judged = evaluate(
        student,
        prepared.held_out,
        recipe.evaluation,
        reader=prepared.student,
        shared=shared_teacher(prepared, teacher),
        label=recipe.name,
    )
    record = RunRecord(
        name=recipe.name,
        arm=arm or recipe.method,
        method=recipe.method,
        access=recipe.resolved().access,
        seed=recipe.seed,
        demonstrates=demonstrates,
        config=recipe.model_dump(mode="json"),
        fingerprints=files,
        contract=prepared.contract,
        teacher=None if teacher is None else teacher.capabilities.provenance,
        answers=answer_counts,
        train_counts=split.counts,
        held_out_counts=prepared.held_out_counts,
        references=references,
        evaluation=judged.record,
        curve=read_curve(folder / "metrics.jsonl"),
        cost=_cost(recipe, objective, answer_counts, wall_s=time.perf_counter() - start),
        environment=environment(),
    )
    if processes.is_main_process:
        _save(folder, student, prepared, judged, record)
    return record


def _cost(recipe: RunRecipe, objective: Objective, answers: AnswerStoreCounts | None, *, wall_s: float) -> RunCost:
    """What the run used; tokens are counted from its metrics, so that they are right for a resumed run too."""
    supervised, tokens = read_totals(Path(recipe.output) / "metrics.jsonl")
    written = answers.teacher_tokens if answers is not None else 0
    return RunCost(
        steps=recipe.training.steps,
        supervised_tokens=supervised,
        student_tokens=tokens,
        teacher_tokens=written + (tokens if objective.needs_signal else 0),
        wall_s=wall_s,
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


def shared_teacher(prepared: Prepared, teacher: LocalTeacher | None) -> SharedTeacher | None:
    """The teacher as a yardstick of distributions, where the contract says that ids mean the same."""
    if teacher is None or prepared.shared_width == 0:
        return None
    return SharedTeacher(teacher, prepared.shared_width)


def load_teacher(recipe: RunRecipe, prepared: Prepared, device: torch.device) -> LocalTeacher | None:
    """The recipe's teacher; None where it is neither trained on nor comparable with the student."""
    settings = recipe.teacher
    if settings is None or prepared.teacher is None:
        return None
    if recipe.resolved().access == "none" and prepared.shared_width == 0:
        return None
    return load_local(settings, student_device=device, template_sha256=prepared.teacher.encoder.template.sha256)


def training_rows(
    recipe: RunRecipe, prepared: Prepared, teacher: LocalTeacher | None, answers_folder: Path
) -> tuple[EncodedSplit, AnswerStoreCounts | None]:
    """The rows a run trains on: the data set's own answers, or the teacher's, made now where they are missing."""
    if recipe.resolved().answers == "dataset":
        return prepared.train, None
    if teacher is None or prepared.teacher is None:
        raise ConfigError("Sequence-level KD needs a teacher.", fix="add teacher: {path: …}")
    asked = prepared.train.examples
    reader = prepared.teacher
    settings = recipe.teacher_answers
    everything = [Prompt(example.key, tuple(reader.encoder.encode_prompt(example))) for example in asked]
    context = context_length(teacher.model.config)
    prompts = askable(everything, context=context, max_new_tokens=settings.max_new_tokens)
    provenance = store_provenance(teacher.capabilities.provenance, _fingerprint(prepared), prompts, settings)
    answers = generate_store(
        answers_folder,
        model=teacher.model,
        tokenizer=reader.tokenizer,
        stop_ids=reader.encoder.stop_ids,
        prompts=prompts,
        settings=settings,
        provenance=provenance,
    )
    kept, counts = keep_usable(
        answers,
        path=answers_folder / "answers.jsonl",
        keep_cut_off=settings.keep_cut_off,
        prompt_tokens=settings.answers_per_prompt * sum(len(prompt.ids) for prompt in prompts),
        not_asked=len(everything) - len(prompts),
    )
    examples = [
        replace(example.with_answer(answer), key=f"{example.key}/{number}")
        for example in asked
        for number, answer in enumerate(kept.get(example.key, []))
    ]
    return prepared.student.encoder.encode_all(examples, source=counts.path), counts


def _fingerprint(prepared: Prepared) -> str:
    assert prepared.contract is not None
    return prepared.contract.teacher.fingerprint


def _index_width(prepared: Prepared) -> int:
    assert prepared.contract is not None
    sides = (prepared.contract.teacher, prepared.contract.student)
    return min(width for side in sides for width in (side.tokens, side.logits_width) if width is not None)


def _save(folder: Path, student: PreTrainedModel, prepared: Prepared, judged: Judged, record: RunRecord) -> None:
    weights = sum(p.numel() * p.element_size() for p in student.parameters())
    require_space(folder, weights + (1 << 22), what="the trained student")
    student.save_pretrained(folder / "student")
    prepared.student.tokenizer.save_pretrained(folder / "student")
    write_held_out(folder / "held_out.jsonl", judged)
    write_record(record, folder / "run.json")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
