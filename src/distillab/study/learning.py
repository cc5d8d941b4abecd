"""The training part of a run: from a fresh student, or from the last checkpoint, to the end of the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from distillab.config.models import RunRecipe
from distillab.data.collation import Collator
from distillab.data.vocabularies import Vocabularies
from distillab.evaluation.likelihood import score_rows, summarise
from distillab.evaluation.protocol import HeldOut
from distillab.models.attention import require_maps
from distillab.models.loading import recompute_activations
from distillab.models.packable import require_packable
from distillab.models.projections import require_projections
from distillab.models.structure import model_shape
from distillab.objectives.build import build_objective
from distillab.objectives.term import Objective
from distillab.progress import Progress
from distillab.records import LikelihoodMetrics, ReferenceLines
from distillab.study.journal import Journal
from distillab.study.training_data import TrainingData
from distillab.teachers.protocol import Teacher
from distillab.training.arguments import training_arguments
from distillab.training.checkpoints import last_whole_checkpoint
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
    teacher: Teacher | None,
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
        teacher=None if teacher is None else teacher.shape,
        vocabularies=vocabularies,
    )
    require_maps(student, objective.student_inner.maps)
    require_projections(student, objective.student_inner.projections)
    if recipe.training.packing:
        require_packable(student, role="student")
    if teacher is not None and objective.needs_signal:
        teacher.require(objective.request, packing=recipe.training.packing)
    return objective


def trainer_for(
    recipe: RunRecipe,
    student: PreTrainedModel,
    teacher: Teacher | None,
    data: TrainingData,
    *,
    objective: Objective,
    checkpoints: Path,
    on_step: Callable[[StepReport], None],
) -> DistillationTrainer:
    """The trainer of a run, as the recipe's training settings have it.

    Args:
        data: the training rows and their batches.
        checkpoints: folder of its checkpoints.
        on_step: called after every optimizer step.
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
    )


def train_student(
    recipe: RunRecipe,
    student: PreTrainedModel,
    teacher: Teacher | None,
    data: TrainingData,
    *,
    objective: Objective,
    watched: Watched,
    writes: bool,
) -> None:
    """Train in place; checkpoints and measurements go to the run's folder.

    Args:
        data: the training rows and their batches.
        writes: False on all processes but the first.
    """
    settings = recipe.training
    folder = Path(recipe.output)
    checkpoints = folder / "checkpoints"
    last = last_whole_checkpoint(checkpoints)
    resumed_at = last[1] if last else 0

    def measure() -> LikelihoodMetrics:
        rows, batch_size = watched.held_out.rows, recipe.evaluation.batch_size
        scores = score_rows(student, rows, collator=watched.collator, batch_size=batch_size)
        return summarise(scores, answer_bytes=sum(watched.held_out.answer_bytes))

    with Progress(f"training {recipe.name}", total=settings.steps, unit="steps", done=resumed_at) as progress:
        journal = Journal(
            folder / "metrics.jsonl" if writes else None,
            steps=settings.steps,
            resumed_at=resumed_at,
            evaluate_every=settings.evaluate_every or max(1, settings.steps // 10),
            measure=measure,
            references=watched.references,
            progress=progress,
        )
        trainer = trainer_for(
            recipe, student, teacher, data, objective=objective, checkpoints=checkpoints, on_step=journal.step
        )
        trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
        detach(student, folder=folder if writes else None)
