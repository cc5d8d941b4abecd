"""Our side: whole optimizer steps of the real trainer, from one `on_step` to the next."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from bench.measure import Finished, Probe
from bench.pair import answer_mask, digest, student_of, teacher_of, token_ids
from bench.settings import LEARNING_RATE, SEED, WITHOUT_TEACHER, Run, Size
from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator, TokenDataset
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.examples import Example
from distillab.data.vocabularies import Vocabularies
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.records import EncodingCounts, TeacherProvenance
from distillab.teachers import LocalTeacher
from distillab.teachers.protocol import SignalSource
from distillab.training.arguments import training_arguments
from distillab.training.rollout import Rollout
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer

# Steps between two measurements of the terms' gradients: beyond all that we time, after the first one. What a
# measuring step costs is a case of its own.
_NEVER_AGAIN = 10_000
_MEASURES_GRADIENTS = "logits+gradient_shares"

_HALVES: tuple[TermConfig, ...] = (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5))

TERMS: dict[str, tuple[TermConfig, ...]] = {
    "sft": (CrossEntropyConfig(),),
    "forward_kl": (TokenDivergenceConfig(),),
    "reverse_kl": (TokenDivergenceConfig(divergence="reverse_kl"),),
    "jensen_shannon": (TokenDivergenceConfig(divergence="jensen_shannon", teacher_weight=0.5),),
    "skewed_forward_kl": (TokenDivergenceConfig(divergence="skewed_forward_kl", skew=0.1),),
    "skewed_reverse_kl": (TokenDivergenceConfig(divergence="skewed_reverse_kl", skew=0.1),),
    "adaptive_kl": (TokenDivergenceConfig(divergence="adaptive_kl", head_mass=0.5),),
    "total_variation": (TokenDivergenceConfig(divergence="total_variation"),),
    "alpha_beta": (TokenDivergenceConfig(divergence="alpha_beta", alpha=0.2, beta=0.7),),
    "logits": _HALVES,
    "logits+hidden_states": (*_HALVES, HiddenStatesConfig()),
    "logits+attention_relations": (*_HALVES, AttentionRelationsConfig()),
    _MEASURES_GRADIENTS: _HALVES,
    "white_box": (*_HALVES, HiddenStatesConfig(), AttentionRelationsConfig()),
}


@dataclass(frozen=True, eq=False)
class Reading:
    """What the steps read.

    Attributes:
        rows: as `collator` takes them.
        collator: makes the batches.
        names: of each row, for messages.
        both: the vocabularies, where the teacher has its own tokens; None where both models share all ids.
    """

    rows: Dataset[Any]
    collator: Callable[[Sequence[Any]], TokenBatch]
    names: Sequence[str]
    both: Vocabularies | None = None


def train(run: Run, probe: Probe) -> None:
    """Steps of `DistillationTrainer` on the terms that the case names, with the teacher in this process."""
    size = run.shape
    teacher = None if run.case in WITHOUT_TEACHER else teacher_of(size, run.device)
    student = student_of(size, run.device)
    if run.device == "cpu":
        models = [student] if teacher is None else [teacher, student]
        probe.facts["digest"] = [digest(model, token_ids(size)) for model in models]
    live = None if teacher is None else LocalTeacher(teacher, provenance())
    take_steps(run, probe, student=student, teacher=live, terms=TERMS[run.case])


def take_steps(
    run: Run,
    probe: Probe,
    *,
    student: PreTrainedModel,
    teacher: SignalSource | None,
    terms: Sequence[TermConfig],
    reading: Reading | None = None,
    rollout: Callable[[TrainingConfig], Rollout] | None = None,
) -> None:
    """Train until the probe has seen enough, whoever the teacher is; on the rows of `pair.py`, or on those given.

    Args:
        rollout: makes what lets the student write the answers.
    """
    # one step for a profile and one in reserve: the probe ends the loop before the trainer would save
    settings = training_config(run, steps=run.warmup + run.steps + 2)
    read = reading or _random_rows(run.shape, settings)

    def on_step(report: StepReport) -> None:
        if report.rollout is not None:
            probe.facts["tokens"] = report.rollout["tokens"]
        probe.tick(report.loss)

    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(settings, folder=Path(folder), seed=SEED)
        probe.facts["optimizer"] = str(arguments.optim)
        trainer = DistillationTrainer(
            model=student,
            args=arguments,
            rows=read.rows,
            collator=read.collator,
            objective=build_objective(
                terms,
                shared_width=run.shape.vocabulary,
                student=model_shape(student),
                teacher=None if teacher is None else teacher.identity.shape,
                vocabularies=read.both,
            ),
            teacher=teacher,
            row_names=read.names,
            batch_size=settings.batch_size,
            on_step=on_step,
            rollout=None if rollout is None else rollout(settings),
            gradient_shares_every=1 if run.case == _MEASURES_GRADIENTS else _NEVER_AGAIN,
        )
        probe.start()
        try:
            trainer.train()
        except Finished:
            return


def training_config(run: Run, *, steps: int) -> TrainingConfig:
    """What a recipe would say."""
    return TrainingConfig(
        steps=steps,
        batch_size=run.shape.rows,
        packing=run.shape.packed is not None,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        precision="bfloat16" if run.device == "cuda" else "float32",
        checkpoint_every=steps,
        device="auto" if run.device == "cuda" else "cpu",
    )


def _random_rows(size: Size, settings: TrainingConfig) -> Reading:
    split = split_of(size)
    collator = Collator(0, settings.padding_side, size.length if settings.packing else None)
    return Reading(TokenDataset(split), collator, [example.origin for example in split.examples])


def split_of(size: Size) -> EncodedSplit:
    """The rows of `pair.py` as the data layer would give them."""
    ids_BL, mask_BL = token_ids(size), answer_mask(size)
    rows = [
        EncodedRow(
            f"row{index}",
            ids_BL[index].to(torch.int32).numpy(),
            mask_BL[index].numpy(),
            int(np.argmax(mask_BL[index].numpy())),
        )
        for index in range(size.rows)
    ]
    return EncodedSplit(rows, _examples(rows), _counts(rows))


def _examples(rows: Sequence[EncodedRow]) -> list[Example]:
    return [Example(row.key, f"{row.key}.jsonl:1", "pair", "prompt", "answer") for row in rows]


def _counts(rows: Sequence[EncodedRow]) -> EncodingCounts:
    return EncodingCounts(
        source="random",
        rows=len(rows),
        kept=len(rows),
        tokens=sum(map(len, rows)),
        supervised_tokens=sum(int(row.answer_mask.sum()) for row in rows),
    )


def provenance() -> TeacherProvenance:
    """Of the random teacher."""
    return TeacherProvenance(name="random", weights_sha256="0", parameters=0, dtype="float32", template_sha256="0")
