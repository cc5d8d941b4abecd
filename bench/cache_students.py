"""A student that learns from a stored teacher, and what it is worth on rows that it has not seen."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel

from bench.cache_pairs import Pair
from distillab.config.terms import TermConfig
from distillab.data.collation import TokenDataset
from distillab.evaluation.likelihood import SharedTeacher, score_rows
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.teachers.protocol import SignalSource
from distillab.training.arguments import training_arguments
from distillab.training.trainer import DistillationTrainer

_JUDGED_AT_ONCE = 30


def train(pair: Pair, term: TermConfig, teacher: SignalSource | None, *, seed: int, steps: int) -> PreTrainedModel:
    """A fresh student after `steps` steps on one term; fewer than the pair's budget stop on the way, at its rate."""
    student = pair.fresh_student(seed)
    objective = build_objective(
        (term,),
        shared_width=pair.width,
        student=model_shape(student),
        teacher=None if teacher is None else teacher.identity.shape,
    )
    if teacher is not None:
        teacher.require(objective.request, packing=False)
    constant = {} if steps == pair.training.steps else {"schedule": "constant"}
    settings = pair.training.model_copy(update={"steps": steps, "checkpoint_every": steps, **constant})
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            args=training_arguments(settings, folder=Path(folder), seed=seed),
            rows=TokenDataset(pair.train),
            collator=pair.collator,
            objective=objective,
            teacher=teacher,
            row_names=[example.origin for example in pair.train.examples],
            batch_size=settings.batch_size,
            on_step=lambda report: None,
        )
        trainer.train()
    return student.eval()


def judge(pair: Pair, student: PreTrainedModel, live: SignalSource) -> dict[str, float]:
    """Held-out nats and KL from the live teacher a token, and how well the student's confidence fits."""
    scores = score_rows(
        student,
        pair.held_out,
        collator=pair.collator,
        batch_size=_JUDGED_AT_ONCE,
        stop_ids=(),
        shared=SharedTeacher(live, pair.width),
    )
    assert scores.kl is not None
    tokens = float(scores.tokens.sum())
    return {
        "nats": float(scores.nats.sum()) / tokens,
        "kl": float(scores.kl.sum()) / tokens,
        **{name: float(value) for name, value in asdict(scores.calibration).items()},
    }
