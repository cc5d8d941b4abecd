"""The training part of a run: from a fresh student, or from the last checkpoint, to the end of the budget."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from distillab.config.models import RunRecipe
from distillab.data.collation import Collator
from distillab.data.vocabularies import Vocabularies
from distillab.evaluation.likelihood import score_rows, summarise
from distillab.evaluation.protocol import HeldOut
from distillab.interruption import Interrupted, defer_interrupt, interrupt_requested
from distillab.models.attention import require_maps
from distillab.models.loading import recompute_activations
from distillab.models.packable import require_packable
from distillab.models.padding import require_no_left_padding_read
from distillab.models.projections import require_projections
from distillab.models.structure import model_shape
from distillab.objectives.build import build_objective
from distillab.objectives.term import Objective
from distillab.progress import Progress
from distillab.records import EvaluationRecord, ReferenceLines
from distillab.runs.journal import Journal
from distillab.runs.training_data import TrainingData
from distillab.teachers.protocol import SignalSource
from distillab.training.arguments import training_arguments
from distillab.training.checkpoints import Prefix, newest_checkpoint, require_finite_weights
from distillab.training.projectors import detach
from distillab.training.trainer import DistillationTrainer, StepReport


@dataclass(frozen=True)
class Watched:
    """What the learning curve measures: held-out rows, how they are batched, the lines to show beside them."""

    held_out: HeldOut
    collator: Collator
    references: ReferenceLines


def objective_for(
    recipe: RunRecipe,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    *,
    shared_width: int,
    vocabularies: Vocabularies | None,
) -> Objective:
    """The recipe's objective, after both models were made ready for it.

    Args:
        shared_width: ids that are compared.
        vocabularies: both, for terms on two tokenisations.
    Raises:
        ConfigError: a term does not fit the two models, or they cannot give what it reads; samples are to be packed
            and would read each other.
    """
    objective = build_objective(
        recipe.resolved().terms,
        shared_width=shared_width,
        student=model_shape(student),
        teacher=None if teacher is None else teacher.identity.shape,
        vocabularies=vocabularies,
    )
    require_maps(student, objective.student_activations.maps)
    require_projections(student, objective.student_activations.projections)
    if recipe.training.packing:
        require_packable(student, role="student")
    if recipe.training.padding_side == "left":
        require_no_left_padding_read(student, role="student")
    if teacher is not None and objective.reads_teacher:
        teacher.require(objective.request, packing=recipe.training.packing)
    return objective


def trainer_for(
    recipe: RunRecipe,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    data: TrainingData,
    *,
    objective: Objective,
    checkpoints: Path,
    on_step: Callable[[StepReport], None],
    identity: str = "",
    measurements: Callable[[], Prefix] | None = None,
) -> DistillationTrainer:
    """The trainer of a run, as the recipe's training settings have it.

    Args:
        data: the training rows and their batches.
        checkpoints: folder of its checkpoints.
        on_step: called after every optimizer step.
        identity: of the run, which its checkpoints are sealed with.
        measurements: see `DistillationTrainer`.
    """
    settings = recipe.training
    if settings.gradient_checkpointing:
        recompute_activations(student)
    return DistillationTrainer(
        model=student,
        args=training_arguments(settings, folder=checkpoints, seed=recipe.seed),
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
    )


def train_student(
    recipe: RunRecipe,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    data: TrainingData,
    *,
    objective: Objective,
    watched: Watched,
    identity: str,
    writes: bool,
) -> None:
    """Train in place; checkpoints and measurements go to the run's folder.

    Args:
        data: the training rows and their batches.
        identity: of the run; it goes on from its own checkpoint only.
        writes: False on all processes but the first.
    Raises:
        Interrupted: a signal came; a checkpoint of the last step is kept.
        NumericsError: a loss, a gradient, a weight or a held-out figure is not finite.
        DataError: the checkpoint, or what was measured until it, is damaged.
    """
    settings = recipe.training
    folder = Path(recipe.output)
    checkpoints = folder / "checkpoints"
    last = newest_checkpoint(checkpoints, run=identity)

    def measure(step: int) -> EvaluationRecord:
        require_finite_weights(student, step=step)
        held_out, batch_size = watched.held_out, recipe.evaluation.batch_size
        scores = score_rows(
            student, held_out.rows, collator=watched.collator, batch_size=batch_size, stop_ids=held_out.stop_ids
        )
        return summarise(scores, scored_bytes=sum(held_out.scored_bytes))

    done = last.step if last else 0
    with (
        defer_interrupt(),
        Progress(f"training {recipe.name}", total=settings.steps, unit="steps", done=done) as progress,
    ):
        journal = Journal(
            folder / "metrics.jsonl" if writes else None,
            steps=settings.steps,
            resumed=last,
            evaluate_every=settings.evaluate_every or max(1, settings.steps // 10),
            measure=measure,
            references=watched.references,
            progress=progress,
        )
        trainer = trainer_for(
            recipe,
            student,
            teacher,
            data,
            objective=objective,
            checkpoints=checkpoints,
            on_step=journal.step,
            identity=identity,
            measurements=journal.kept,
        )
        trainer.train(resume_from_checkpoint=str(last.folder) if last else None)
        step = trainer.state.global_step
        if step < settings.steps or interrupt_requested() is not None:
            # another process of this run may have got the signal, and not this one
            number = interrupt_requested() or signal.SIGTERM
            raise Interrupted(number, f"{recipe.name}: step {step} of {settings.steps} is kept ({checkpoints})")
        require_finite_weights(student, step=settings.steps)
        detach(student, folder=folder if writes else None)
