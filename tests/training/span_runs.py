"""Training of a tiny student on rows in two toy tokenisations: letters against pairs of letters.

Run as a module, in processes: some steps with the term `contrastive` or another; process 0 writes what it measured.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.config.layer_terms import ContrastiveConfig
from distillab.config.terms import CrossEntropyConfig, DualSpaceConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedDataset, PairedRow
from distillab.data.vocabularies import Vocabularies
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.training.arguments import training_arguments
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer
from tests.training.conftest import VOCABULARY, teacher, tiny_llama
from tests.training.two_processes import leave


def letter_rows(count: int) -> list[PairedRow]:
    """The student reads letters (ids 3 to 8), the teacher pairs of them; the answer begins behind a few pairs."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        pairs = int(generator.integers(3, 9))
        prompt = int(generator.integers(1, pairs))
        letters = generator.integers(3, 9, size=2 * pairs)
        pair_ids = 9 + 6 * (letters[::2] - 3) + letters[1::2] - 3
        rows.append(
            PairedRow(
                index,
                EncodedRow(f"row{index}", letters.astype(np.int32), np.arange(2 * pairs) >= 2 * prompt, 2 * prompt),
                EncodedRow(f"row{index}", pair_ids.astype(np.int32), np.arange(pairs) >= prompt, prompt),
                np.arange(2 * pairs) // 2,
                np.arange(pairs),
            )
        )
    return rows


def letter_vocabularies() -> Vocabularies:
    """Of both sides; no token is mapped to another: the terms here read their sizes alone."""
    none = torch.zeros(VOCABULARY, dtype=torch.bool)
    projection = VocabularyProjection(
        row_ends=np.zeros(VOCABULARY + 1, dtype=np.int64),
        student_ids=np.zeros(0, dtype=np.int64),
        weights=np.zeros(0, dtype=np.float32),
        how=np.full(VOCABULARY, HOWS.index("unmapped"), dtype=np.uint8),
        student_width=VOCABULARY,
        teacher_fingerprint="teacher",
        student_fingerprint="student",
    )
    return Vocabularies(projection, none, none)


def span_trainer(
    folder: Path,
    *,
    on_step: Callable[[StepReport], None],
    term: ContrastiveConfig | DualSpaceConfig,
    **settings: Any,
) -> DistillationTrainer:
    """A trainer of cross-entropy and the term on 12 rows."""
    config = TrainingConfig(**{"steps": 4, "batch_size": 8, "learning_rate": 1e-2, "device": "cpu", **settings})
    student, source, rows = tiny_llama(0), teacher(), letter_rows(12)
    return DistillationTrainer(
        model=student,
        args=training_arguments(config, folder=folder, seed=0),
        rows=PairedDataset(rows),
        collator=PairedCollator(Collator(0, config.padding_side), Collator(0, "left")),
        objective=build_objective(
            (CrossEntropyConfig(), term),
            shared_width=0,
            student=model_shape(student),
            teacher=model_shape(source.model),
            vocabularies=letter_vocabularies(),
        ),
        teacher=source,
        row_names=[row.student.key for row in rows],
        batch_size=config.batch_size,
        on_step=on_step,
        gradient_shares_every=config.gradient_shares_every,
    )


def main(folder: Path, microbatch: int, kind: str) -> None:
    reports: list[StepReport] = []
    term = DualSpaceConfig() if kind == "dual_space" else ContrastiveConfig(width=8, queue=20, temperature="learned")
    trainer = span_trainer(folder / "checkpoints", on_step=reports.append, term=term, microbatch_size=microbatch)
    trainer.train()
    buffers = {name: buffer for name, buffer in trainer.model.named_buffers() if "queue" in name}
    result = {
        "world": trainer.args.world_size,
        "reports": [dataclasses.asdict(report) for report in reports],
        "queue": {name.rsplit(".", 1)[1]: buffer.flatten().tolist() for name, buffer in buffers.items()},
    }
    leave(folder, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
