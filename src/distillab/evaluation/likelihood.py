"""Teacher-forced figures over held-out answers, row by row.

Shape letters: N flattened scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.divergences import forward_kl
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_logits, scored_rows, scored_targets
from distillab.records import LikelihoodMetrics
from distillab.teachers.local import LocalTeacher


@dataclass(frozen=True)
class SharedTeacher:
    """A teacher whose distribution may be compared with the student's, id by id."""

    teacher: LocalTeacher
    shared_width: int


@dataclass(frozen=True)
class RowScores:
    """One entry a row, in the order of the rows. KL and agreement are None without a shared teacher."""

    keys: tuple[str, ...]
    nats: Tensor
    tokens: Tensor
    correct: Tensor
    kl: Tensor | None
    agree: Tensor | None


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    collator: Collator,
    batch_size: int,
    shared: SharedTeacher | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> RowScores:
    """Sums over the scored tokens of each row, in float64.

    Args:
        after_batch: called with the number of rows of each finished batch, for progress.
    """
    was_training = model.training
    model.eval()
    columns = {
        name: torch.zeros(len(rows), dtype=torch.float64) for name in ("nats", "tokens", "correct", "kl", "agree")
    }
    # rows of like length share a batch; results are put back by row index
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collator([IndexedRow(index, rows[index]) for index in chosen])
        for name, values in _batch_values(model, batch, shared).items():
            columns[name].index_add_(0, scored_rows(batch), values.double().cpu())
        if after_batch is not None:
            after_batch(len(chosen))
    model.train(was_training)
    return RowScores(
        keys=tuple(row.key for row in rows),
        nats=columns["nats"],
        tokens=columns["tokens"],
        correct=columns["correct"],
        kl=columns["kl"] if shared else None,
        agree=columns["agree"] if shared else None,
    )


def _batch_values(model: PreTrainedModel, batch: TokenBatch, shared: SharedTeacher | None) -> dict[str, Tensor]:
    logits_NV = scored_logits(model, batch).float()
    targets_N = scored_targets(batch).to(logits_NV.device)
    values = {
        "nats": torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none"),
        "correct": (logits_NV.argmax(dim=-1) == targets_N).float(),
        "tokens": torch.ones_like(targets_N, dtype=torch.float32),
    }
    if shared is not None:
        student = logits_NV[:, : shared.shared_width]
        teacher = shared.teacher.signal(batch).logits_NW[:, : shared.shared_width].float().to(student.device)
        values["kl"] = forward_kl(student_logp=student.log_softmax(-1), teacher_logp=teacher.log_softmax(-1))
        values["agree"] = (student.argmax(dim=-1) == teacher.argmax(dim=-1)).float()
    return values


def summarise(scores: RowScores, *, answer_bytes: int) -> LikelihoodMetrics:
    """Means over tokens; bits per byte over the UTF-8 bytes of the answers, EOS's nats included."""
    tokens = float(scores.tokens.sum())
    nats = float(scores.nats.sum())
    return LikelihoodMetrics(
        n=len(scores.keys),
        tokens=int(tokens),
        nats_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / answer_bytes,
        token_accuracy=float(scores.correct.sum()) / tokens,
        kl_from_teacher_nats=None if scores.kl is None else float(scores.kl.sum()) / tokens,
        top1_agreement=None if scores.agree is None else float(scores.agree.sum()) / tokens,
    )
