"""Train the student of a run: from its initial weights or the last checkpoint, to the end of the budget."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from distillab.config.on_policy import StudentAnswersConfig
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.collation import Collator, TokenDataset
from distillab.data.encoding import EncodedSplit
from distillab.data.paired import PairedCollator, PairedDataset
from distillab.data.written import WrittenPairs
from distillab.errors import ConfigError
from distillab.evaluation.likelihood import score_rows
from distillab.evaluation.summary import summarise
from distillab.files import read_json
from distillab.interruption import Interrupted, defer_interrupt, interrupt_requested
from distillab.models.adapters import add_adapter
from distillab.models.attention import require_maps
from distillab.models.batch import TokenBatch
from distillab.models.loading import context_length, load_model, random_model, recompute_activations
from distillab.models.packable import require_packable
from distillab.models.padding import require_no_left_padding_read
from distillab.models.probing import coarsest, embedding_rows
from distillab.models.projections import require_projections
from distillab.models.rollout import require_samples, trains_with_dropout
from distillab.models.structure import is_adapted, model_shape
from distillab.objectives.build import build_objective
from distillab.objectives.term import Objective
from distillab.progress import Progress
from distillab.records import EvaluationRecord, ReferenceLines, SpanCounts
from distillab.runs.inputs import RunInputs
from distillab.runs.journal import Journal
from distillab.runs.pruned import made_student
from distillab.runs.rollouts import RolloutWatch
from distillab.runs.teacher_view import vocab_size
from distillab.teachers.protocol import SignalSource
from distillab.training.arguments import evaluation_interval, training_arguments
from distillab.training.checkpoints import Prefix, newest_checkpoint, require_finite_weights
from distillab.training.projectors import detach
from distillab.training.rollout import Rollout
from distillab.training.samplers import ContinuousBatching, Sampler
from distillab.training.served_sampler import ServedSampler
from distillab.training.spending import Spending
from distillab.training.step_report import StepReport
from distillab.training.trainer import SPENT_FILE, DistillationTrainer

MakeCollator = Callable[[int], Collator]  # takes the padding id


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The rows of a run as its trainer takes them.

    Attributes:
        split: the rows in the student's tokens.
        rows: as `collator` takes them.
        collator: makes the training batches.
        row_names: the origin of each row of the split, for messages.
        lengths: the student's tokens of each of `rows`.
        spans: counts of the alignment of two tokenisations; None if there is one.
        pairs: aligns answers that the student writes; None if there is one tokenisation.
    """

    split: EncodedSplit
    rows: Dataset[Any]
    collator: Callable[[Sequence[Any]], TokenBatch]
    row_names: Sequence[str]
    lengths: Sequence[int]
    spans: SpanCounts | None = None
    pairs: WrittenPairs | None = None


def training_data(inputs: RunInputs, split: EncodedSplit, *, collator: MakeCollator | None = None) -> TrainingData:
    """Return the rows of a split, in both tokenisations if the terms read both.

    Args:
        collator: makes the batches instead of the usual one.
    Raises:
        DataError: no row was read by both tokenizers.
    """
    settings, reader, teacher = inputs.recipe.training, inputs.student, inputs.teacher
    names = [f"{example.origin} (key {example.key})" for example in split.examples]
    usual = reader.collator(settings.padding_side, packing=settings.packing)
    if teacher is None or not teacher.own_tokens:
        lengths = [len(row) for row in split.rows]
        made = collator(reader.encoder.pad_id) if collator else usual
        return TrainingData(split, TokenDataset(split), made, names, lengths)
    source = f"{split.counts.source}, and {teacher.spec.name}"
    aligner = span_aligner(reader, teacher.reader)
    rows, counts = pair_rows(split.rows, teacher.rows(split), aligner=aligner, source=source)
    paired = PairedCollator(usual, teacher.reader.collator(settings.padding_side))
    whole = replace(teacher.reader, encoder=teacher.reader.encoder.with_max_tokens(teacher.context))
    pairs = WrittenPairs(split, rows, reader, whole, aligner)
    return TrainingData(split, PairedDataset(rows), paired, names, [len(row.student) for row in rows], counts, pairs)


def load_student(inputs: RunInputs) -> PreTrainedModel:
    """Load the student before training: its weights, those kept of the teacher, or random ones; maybe adapted.

    Random weights, and new adapters on others, are drawn from the run's seed.

    Raises:
        ConfigError: the adapters do not fit the model, or there are none and they are to be saved.
    """
    settings, seed = inputs.recipe.student, inputs.recipe.seed
    dtype, device, revision = settings.dtype, inputs.device, settings.revision
    torch.manual_seed(seed)
    if inputs.starts_from is not None:
        model = load_model(str(inputs.starts_from), dtype=dtype, device=device, revision=None, role="student")
    elif settings.init == "random":
        return random_model(settings.path, seed=seed, dtype=dtype, device=device, revision=revision)
    elif settings.from_teacher is not None:
        model = made_student(inputs)
    else:
        quantization = settings.quantization
        model = load_model(
            settings.path, dtype=dtype, device=device, revision=revision, role="student", quantization=quantization
        )
    if settings.adapter is not None:
        return add_adapter(model, settings.adapter, seed=seed, revision=revision)
    if settings.save_as == "adapter" and not is_adapted(model):
        raise ConfigError(
            "The student has no adapters that could be saved.",
            where="student.save_as: adapter",
            fix="give a peft model, or set student.adapter",
        )
    return model


def objective_for(inputs: RunInputs, student: PreTrainedModel, teacher: SignalSource | None) -> Objective:
    """Build the objective of a run, and prepare both models for it.

    Args:
        teacher: source of the terms' signals.
    Raises:
        ConfigError: a term does not fit the two models, or the models cannot give what it reads; packed samples
            would read each other.
    """
    settings, view = inputs.recipe.training, inputs.teacher
    objective = build_objective(
        inputs.method.terms,
        shared_width=0 if view is None else view.compared_width,
        student=model_shape(student),
        teacher=None if teacher is None else teacher.identity.shape,
        vocabularies=None if view is None else view.vocabularies,
    )
    require_maps(student, objective.student_activations.maps)
    require_projections(student, objective.student_activations.projections)
    if settings.packing:
        require_packable(student, role="student")
    if settings.padding_side == "left":
        require_no_left_padding_read(student, role="student")
    if teacher is not None and objective.reads_teacher:
        teacher.require(objective.request, packing=settings.packing)
    return objective


def trainer_for(
    inputs: RunInputs,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    data: TrainingData,
    *,
    objective: Objective,
    checkpoints: Path,
    on_step: Callable[[StepReport], None],
    identity: str = "",
    measurements: Callable[[], Prefix] | None = None,
    rollout: Rollout | None = None,
    spending: Spending | None = None,
) -> DistillationTrainer:
    """Build the trainer of a run from the recipe's training settings.

    Args:
        data: the training rows and their batches.
        checkpoints: folder of its checkpoints.
        on_step: called after every optimizer step.
        identity: of the run, for the seal of its checkpoints.
        measurements, rollout, spending: see `DistillationTrainer`.
    """
    settings = inputs.recipe.training
    if settings.gradient_checkpointing:
        recompute_activations(student)
    return DistillationTrainer(
        model=student,
        args=training_arguments(settings, folder=checkpoints, seed=inputs.recipe.seed),
        rows=data.rows,
        collator=data.collator,
        objective=objective,
        teacher=teacher,
        row_names=data.row_names,
        batch_size=settings.batch_size,
        on_step=on_step,
        lengths=data.lengths if settings.group_by_length else None,
        gradient_shares_every=settings.gradient_shares_every,
        checkpoint_minutes=settings.checkpoint_minutes,
        run=identity,
        measurements=measurements,
        rollout=rollout,
        spending=spending,
    )


def rollout_for(inputs: RunInputs, student: PreTrainedModel, data: TrainingData) -> Rollout | None:
    """Return how the student writes answers during training; None if it writes none.

    Raises:
        ConfigError: an answer does not fit into a context, the student cannot write any, or none could end.
        DataError: a row has no prompt.
    """
    own, settings = inputs.method.own, inputs.recipe.training
    if own is None:
        return None
    rows, view = data.split.rows, inputs.require_teacher()
    stop_ids = inputs.student.encoder.stop_ids
    width = vocab_size(view.contract.student) if view.own_tokens else view.compared_width
    # a teacher with other tokens reads what fits into its context
    teachers = {} if view.own_tokens else inputs.views or {"": view}
    read_by = [
        (f"teacher {name}".strip(), part.context, part.rows(inputs.of(name, data.split)))
        for name, part in teachers.items()
    ]
    for who, context, read in [("student", context_length(student.config), rows), *read_by]:
        longest = max((row.prompt_length for row in read), default=0)
        if context is not None and longest + own.longest > context:
            raise ConfigError(
                "The longest prompt and the student's longest answer do not fit into the context of both models.",
                facts=[
                    f"{who}: longest prompt {longest} tokens",
                    f"max_new_tokens {own.longest}",
                    f"context {context}",
                ],
                fix="lower answers.max_new_tokens or data.max_tokens",
            )
    if all(token >= width for token in stop_ids):
        raise ConfigError(
            "No token that ends an answer is among those that student and teacher share, so no answer would end.",
            facts=[f"ids that end an answer: {', '.join(map(str, stop_ids))}", f"shared: the first {width} ids"],
            fix="use answers: dataset or teacher",
        )
    require_samples(student)
    dropout = trains_with_dropout(student)
    sampler = _other_sampler(inputs, own, student, stop_ids, width, dropout)
    # of the local one; in bfloat16 its mean gap is up to 0.017 nats for small students without any error
    exact = settings.precision == "float32" and torch.finfo(coarsest(student, student.device)).bits >= 32
    return Rollout(
        own,
        rows,
        data.collator,
        stop_ids,
        width,
        settings.steps,
        settings.batch_size,
        inputs.recipe.seed,
        data.pairs,
        sampler=sampler,
        checks_sampler=sampler is not None or (exact and not dropout),
    )


def _other_sampler(
    inputs: RunInputs,
    own: StudentAnswersConfig,
    student: PreTrainedModel,
    stop_ids: tuple[int, ...],
    width: int,
    dropout: bool,
) -> Sampler | None:
    """Return who writes the answers in place of the loop of this process; a server is first asked at step 1.

    Raises:
        ConfigError: its answers could not be checked, or it cannot write this student's.
    """
    if own.sampler == "local":
        return None
    processes, rows = int(os.environ.get("WORLD_SIZE", "1")), embedding_rows(student)
    batched = own.sampler == "continuous_batching"
    facts = {
        "it has adapters, and a server reads whole weights": is_adapted(student) and not batched,
        "it is trained with dropout, so its probabilities are not those of the sampler": dropout,
        f"{processes} processes train it, and such a sampler is for one": processes > 1,
        f"it has {rows} ids, and may write the first {width}": batched and rows != width,
        "training.precision is bfloat16, which continuous batching does not take over": batched
        and inputs.recipe.training.precision == "bfloat16",
    }
    if any(facts.values()):
        raise ConfigError(
            "This student's answers can be written by this process alone.",
            where="answers.sampler",
            facts=[fact for fact, found in facts.items() if found],
            fix="use sampler: local",
        )
    temperature = own.sampling.temperature
    if isinstance(own.sampler, str):
        return ContinuousBatching(stop_ids, rows, temperature == 0)
    return ServedSampler(own.sampler, stop_ids, width, rows, temperature)


def train_student(
    inputs: RunInputs,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    data: TrainingData,
    *,
    references: ReferenceLines,
    identity: str,
    writes: bool,
    spending: Spending | None = None,
) -> int:
    """Train in place; checkpoints and measurements go to the run's folder.

    Args:
        data: the training rows and their batches.
        references: shown beside the learning curve.
        identity: of the run; it resumes only from its own checkpoint.
        writes: False on all processes but the first.
        spending: the budget, where it is no number of steps.
    Returns:
        The optimizer steps of the run.
    Raises:
        ConfigError: see `objective_for`.
        Interrupted: a signal came; a checkpoint of the last step is kept.
        NumericsError: a loss, a gradient, a weight or a held-out figure is not finite.
        DataError: the checkpoint, or the measurements before it, are damaged.
    """
    recipe, settings = inputs.recipe, inputs.recipe.training
    objective = objective_for(inputs, student, teacher)
    rollout = rollout_for(inputs, student, data)
    folder = Path(recipe.output)
    checkpoints = folder / "checkpoints"
    last = newest_checkpoint(checkpoints, run=identity)

    def measure(step: int) -> EvaluationRecord:
        require_finite_weights(student, step=step)
        held_out, size = inputs.held_out.first(recipe.evaluation.curve_rows), recipe.evaluation.batch_size
        collator = inputs.student.collator(settings.padding_side)
        scores = score_rows(student, held_out.rows, collator=collator, batch_size=size, stop_ids=held_out.stop_ids)
        return summarise(scores, scored_bytes=sum(held_out.scored_bytes))

    done, total, unit = last.step if last else 0, settings.steps, "steps"
    if spending is not None:
        if last:
            spending.resume(read_json(last.folder / SPENT_FILE), step=last.step)
        done, total, unit = int(100 * spending.used), 100, "% of the budget"
    with (
        defer_interrupt(),
        Progress(f"training {recipe.name}", total=total, unit=unit, done=done) as progress,
    ):
        journal = Journal(
            folder / "metrics.jsonl" if writes else None,
            resumed=last,
            evaluate_every=evaluation_interval(settings),
            measure=measure,
            references=references,
            progress=progress,
            watch=RolloutWatch.of(inputs, student, rollout),
        )
        trainer = trainer_for(
            inputs,
            student,
            teacher,
            data,
            objective=objective,
            checkpoints=checkpoints,
            on_step=journal.step,
            identity=identity,
            measurements=journal.kept,
            rollout=rollout,
            spending=spending,
        )
        trainer.train(resume_from_checkpoint=str(last.folder) if last else None)
        step = trainer.state.global_step
        if step < trainer.state.max_steps or interrupt_requested() is not None:
            # another process of this run can have received the signal
            number = interrupt_requested() or signal.SIGTERM
            raise Interrupted(number, f"{recipe.name}: step {step} is kept ({checkpoints})")
        require_finite_weights(student, step=step)
        detach(student, folder=folder if writes else None)
    return step
