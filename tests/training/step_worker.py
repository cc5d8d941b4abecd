"""Run in processes by `test_processes`: two optimizer steps of the tiny model; process 0 writes what it measured."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator, TokenDataset
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.training.arguments import training_arguments
from distillab.training.rollout import Rollout
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer
from tests.training.conftest import STOP, VOCABULARY, ragged_split, teacher, tiny_llama
from tests.training.two_processes import leave

OWN = StudentAnswersConfig(fraction=0.75, max_new_tokens=10)


def main(folder: Path, microbatch: int, writes: bool) -> None:
    # every kind of term, with a projector that learns and a weight that is measured
    terms: tuple[TermConfig, ...] = (
        CrossEntropyConfig(weight=0.5),
        TokenDivergenceConfig(weight=0.5),
        HiddenStatesConfig(projector="linear"),
        AttentionRelationsConfig(weight="balanced"),
    )
    if writes:
        terms = (TokenDivergenceConfig(divergence="reverse_kl"),)
    settings = TrainingConfig(steps=2, batch_size=8, microbatch_size=microbatch, learning_rate=1e-2, device="cpu")
    split = ragged_split(12)
    reports: list[StepReport] = []
    student, source = tiny_llama(0), teacher()
    trainer = DistillationTrainer(
        model=student,
        args=training_arguments(settings, folder=folder / "checkpoints", seed=0),
        rows=TokenDataset(split),
        collator=Collator(0),
        objective=build_objective(
            terms, shared_width=VOCABULARY, student=model_shape(student), teacher=model_shape(source.model)
        ),
        teacher=source,
        row_names=[example.origin for example in split.examples],
        batch_size=8,
        on_step=reports.append,
        rollout=Rollout(OWN, split.rows, Collator(0), (STOP,), VOCABULARY, 2, 8, seed=0) if writes else None,
    )
    trainer.train()
    result = {
        "world": trainer.args.world_size,
        "reports": [dataclasses.asdict(report) for report in reports],
        "parameters": [float(p.detach().double().sum()) for p in student.parameters()],
    }
    leave(folder, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["writes"])
