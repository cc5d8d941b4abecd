"""A tiny real model and ragged rows for the trainer's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from distillab.config.methods import METHODS
from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.terms import TermConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator, IndexedRow, TokenDataset
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.examples import Example
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.records import EncodingCounts, TeacherProvenance
from distillab.teachers import LocalTeacher, SignalSource
from distillab.training.arguments import training_arguments
from distillab.training.rollout import Rollout
from distillab.training.samplers import Sampler
from distillab.training.sampling import StepSampler
from distillab.training.step_report import StepReport
from distillab.training.trainer import DistillationTrainer

VOCABULARY = 48
REVERSE = (TokenDivergenceConfig(divergence="reverse_kl"),)
PACKED_TOKENS = 64
STOP = 2


def tiny_llama(seed: int, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def flat_parameters(model: torch.nn.Module) -> torch.Tensor:
    """A copy of all weights, in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def ragged_split(rows: int, seed: int = 0) -> EncodedSplit:
    """Rows of very different lengths and prompt shares."""
    generator = np.random.default_rng(seed)
    encoded, examples = [], []
    for index in range(rows):
        length = int(generator.integers(4, 30))
        prompt = int(generator.integers(1, length - 1))
        mask = np.zeros(length, dtype=np.bool_)
        mask[prompt:] = True
        ids = generator.integers(3, VOCABULARY, size=length).astype(np.int32)
        encoded.append(EncodedRow(f"row{index}", ids, mask, prompt))
        examples.append(Example(f"row{index}", f"rows.jsonl:{index + 1}", "pair", "p", "a"))
    supervised = sum(int(row.answer_mask.sum()) for row in encoded)
    counts = EncodingCounts(
        source="rows", rows=rows, kept=rows, tokens=sum(map(len, encoded)), supervised_tokens=supervised
    )
    return EncodedSplit(encoded, examples, counts)


def teacher(model: PreTrainedModel | None = None) -> LocalTeacher:
    provenance = TeacherProvenance(name="t", weights_sha256="0", parameters=1, dtype="float32", template_sha256="0")
    return LocalTeacher(model or tiny_llama(99, layers=3), provenance)


Train = Callable[..., tuple[LlamaForCausalLM, list[StepReport]]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train a tiny student for some steps and give it back with its step reports."""

    def run(
        *,
        method: str = "logits",
        split: EncodedSplit | None = None,
        student: LlamaForCausalLM | None = None,
        folder: Path | None = None,
        resume: str | None = None,
        stop_after: int | None = None,
        terms: Sequence[TermConfig] | None = None,
        source: SignalSource | None = None,
        own: StudentAnswersConfig | None = None,
        sampler: Sampler | None = None,
        **settings: Any,
    ) -> tuple[LlamaForCausalLM, list[StepReport]]:
        usual = {"batch_size": 8, "learning_rate": 1e-2, "device": "cpu", "checkpoint_every": settings.get("steps", 1)}
        config = TrainingConfig(**{"steps": 1, **usual, **settings})
        split = split or ragged_split(8)
        student = student or tiny_llama(0)
        source = source or teacher()
        reports: list[StepReport] = []

        def on_step(report: StepReport) -> None:
            reports.append(report)
            if stop_after is not None and report.step == stop_after:
                raise KeyboardInterrupt

        collator = Collator(0, config.padding_side, PACKED_TOKENS if config.packing else None)
        trainer = DistillationTrainer(
            model=student,
            args=training_arguments(config, folder=folder or tmp_path / "checkpoints", seed=0),
            rows=TokenDataset(split),
            collator=collator,
            objective=build_objective(
                terms or METHODS[method].terms,
                shared_width=VOCABULARY,
                student=model_shape(student),
                teacher=source.identity.shape,
            ),
            teacher=None if METHODS[method].access in ("none", "text") else source,
            row_names=[example.origin for example in split.examples],
            batch_size=config.batch_size,
            on_step=on_step,
            gradient_shares_every=config.gradient_shares_every,
            checkpoint_minutes=config.checkpoint_minutes,
            lengths=[len(row) for row in split.rows] if config.group_by_length else None,
            rollout=None
            if own is None
            else Rollout(
                own, split.rows, collator, (STOP,), VOCABULARY, config.steps, config.batch_size, 0, sampler=sampler
            ),
        )
        trainer.train(resume_from_checkpoint=resume)
        return student, reports

    return run


def rollout(own: StudentAnswersConfig, split: EncodedSplit, steps: int = 1) -> Rollout:
    """The answers of a student in steps of eight rows."""
    return Rollout(own, split.rows, Collator(0), (STOP,), VOCABULARY, steps, 8, seed=0)


def first_rows() -> list[int]:
    """The rows of the first step, as the sampler draws them."""
    return list(StepSampler(rows=8, draws=8, seed=0, batch_size=8))


def rewritten(
    writing: Rollout, rows: Sequence[int], model: Any, *, microbatch: int = 8, step: int = 1
) -> list[TokenBatch]:
    """The microbatches of a step with the answers of a student, in one process."""
    batches = [
        Collator(0)([IndexedRow(index, writing.rows[index]) for index in rows[at : at + microbatch]])
        for at in range(0, len(rows), microbatch)
    ]
    return writing.rewritten(
        model,
        batches,
        step=step,
        position=step,
        process=(0, 1),
        device=torch.device("cpu"),
        over_processes=lambda values: values,
        joined=lambda values: values,
    )
