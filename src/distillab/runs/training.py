"""Train the student of a run: from its initial weights or the last checkpoint, to the end of the budget."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from distillab.alignment.transport import TransportCounts
from distillab.evaluation.likelihood import score_rows
from distillab.evaluation.summary import summarise
from distillab.files import read_json
from distillab.interruption import Interrupted, defer_interrupt, interrupt_requested
from distillab.models.attention import require_maps
from distillab.models.loading import recompute_activations
from distillab.models.packable import require_packable
from distillab.models.padding import require_no_left_padding_read
from distillab.models.projections import require_projections
from distillab.models.structure import model_shape
from distillab.objectives.build import build_objective
from distillab.objectives.term import Objective
from distillab.processes import Processes
from distillab.progress import Progress
from distillab.records import EvaluationRecord, ReferenceLines
from distillab.runs.inputs import RunInputs
from distillab.runs.journal import Journal
from distillab.runs.rollouts import RolloutWatch
from distillab.runs.student_answers import rollout_for
from distillab.runs.training_data import TrainingData
from distillab.teachers.protocol import SignalSource
from distillab.training.arguments import evaluation_interval, training_arguments
from distillab.training.checkpoint_copies import CheckpointCopies
from distillab.training.checkpoints import Prefix, newest_checkpoint, require_finite_weights
from distillab.training.projectors import detach
from distillab.training.rollout import Rollout
from distillab.training.spending import Spending
from distillab.training.step_report import StepReport
from distillab.training.trackers import Trackers
from distillab.training.trainer import SPENT_FILE, DistillationTrainer
from distillab.training.zero import put_together, require_resumable, require_zero


def objective_for(
    inputs: RunInputs,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    transport: TransportCounts | None,
) -> Objective:
    """Build the objective of a run, and prepare both models for it.

    Args:
        teacher: source of the terms' signals.
        transport: `TrainingData.transport`.
    Raises:
        ConfigError: a term does not fit the two models, or the models cannot give what it reads; packed samples
            would read each other.
    """
    settings, view = inputs.recipe.training, inputs.teacher
    vocabularies = None if view is None else view.vocabularies
    objective = build_objective(
        inputs.method.terms,
        shared_width=0 if view is None else view.compared_width,
        student=model_shape(student),
        teacher=None if teacher is None else teacher.identity.shape,
        vocabularies=None if vocabularies is None else replace(vocabularies, counts=transport),
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
    on_sealed: Callable[[Path], None] | None = None,
    rollout: Rollout | None = None,
    spending: Spending | None = None,
) -> DistillationTrainer:
    """Build the trainer of a run from the recipe's training settings.

    Args:
        data: the training rows and their batches.
        checkpoints: folder of its checkpoints.
        on_step: called after every optimizer step.
        identity: of the run, for the seal of its checkpoints.
        measurements, on_sealed, rollout, spending: see `DistillationTrainer`.
    """
    settings = inputs.recipe.training
    if settings.gradient_checkpointing:
        recompute_activations(student)
    return DistillationTrainer(
        model=student,
        args=training_arguments(settings, folder=checkpoints, seed=inputs.recipe.seed, name=inputs.recipe.name),
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
        on_sealed=on_sealed,
        rollout=rollout,
        spending=spending,
    )


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
        DataError: the checkpoint or its copy, or the measurements before it, are damaged.
        StorageError: checkpoints cannot be copied to, or from, the recipe's address.
    """
    recipe, settings = inputs.recipe, inputs.recipe.training
    objective = objective_for(inputs, student, teacher, data.transport)
    rollout = rollout_for(inputs, student, data)
    require_zero(settings, student, objective, writes=rollout is not None)
    folder = Path(recipe.output)
    checkpoints, measurements = folder / "checkpoints", folder / "metrics.jsonl"
    address = settings.checkpoint_copy
    copies = None if address is None else CheckpointCopies(address, identity, measurements)
    if copies is not None and writes:
        copies.fetch(checkpoints)
    Processes.current().wait()
    last = newest_checkpoint(checkpoints, run=identity)

    def measure(step: int) -> EvaluationRecord:
        require_finite_weights(student, step=step)
        held_out, size = inputs.held_out.first(recipe.evaluation.curve_rows), recipe.evaluation.batch_size
        collator = inputs.student.collator(settings.padding_side)
        scores = score_rows(
            student,
            held_out.rows,
            collator=collator,
            batch_size=size,
            stop_ids=held_out.stop_ids,
            processes=Processes.current(),
        )
        return summarise(scores, scored_bytes=sum(held_out.scored_bytes))

    if last:
        require_resumable(last.folder, settings)
    done, total, unit = last.step if last else 0, settings.steps, "steps"
    if spending is not None:
        if last:
            spending.resume(read_json(last.folder / SPENT_FILE), step=last.step)
        done, total, unit = int(100 * spending.used), 100, "% of the budget"
    with (
        defer_interrupt(),
        Progress(f"training {recipe.name}", total=total, unit=unit, done=done) as progress,
    ):
        lines = {"unigram_nats_per_token": references.unigram_nats, "uniform_nats_per_token": references.uniform_nats}
        sends = writes and bool(settings.report_to)
        trackers = Trackers(settings.report_to, folder=folder, references=lines) if sends else None
        journal = Journal(
            measurements if writes else None,
            resumed=last,
            evaluate_every=evaluation_interval(settings),
            measure=measure,
            references=references,
            progress=progress,
            watch=RolloutWatch.of(inputs, student, rollout),
            tell=None if trackers is None else trackers.tell,
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
            on_sealed=None if copies is None else copies.keep,
            rollout=rollout,
            spending=spending,
        )
        if trackers is not None:
            trackers.attach(trainer)
        trainer.train(resume_from_checkpoint=str(last.folder) if last else None)
        step = trainer.state.global_step
        if step < trainer.state.max_steps or interrupt_requested() is not None:
            # another process of this run can have received the signal
            number = interrupt_requested() or signal.SIGTERM
            # how many a budget of tokens or operations allows is not known before
            of = f" of {settings.steps}" if spending is None else ""
            raise Interrupted(number, f"{recipe.name}: step {step}{of} is kept ({checkpoints})")
        if settings.deepspeed == 3:
            put_together(trainer)
        require_finite_weights(student, step=step)
        detach(student, folder=folder if writes else None)
    return step
