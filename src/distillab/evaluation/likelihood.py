"""Score held-out answers under teacher forcing, row by row: loss, accuracy, KL and agreement.

Shape letters: N flattened scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.divergences import forward_kl
from distillab.evaluation.calibration import Calibration, calibration
from distillab.models.batch import TokenBatch
from distillab.models.chunking import chunks, sub_chunks
from distillab.models.heads import OutputHead, with_lm_head
from distillab.models.scoring import at_scored, scored_rows, scored_targets
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.term import StudentScores
from distillab.records import PRIMARY, EvaluationRecord, Metric
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import Distribution, NextTokens, SignalRequest, TeacherSignal

_COLUMNS = ("nats", "eos_nats", "eos_tokens", "tokens", "correct", "kl", "agree")
# what is computed at every scored position
_OF_STUDENT, _OF_TEACHER = ("nats", "correct", "tokens", "confidence"), ("kl", "agree")


@dataclass(frozen=True)
class SharedTeacher:
    """A teacher whose distribution can be compared with the student's, id by id."""

    teacher: SignalSource
    shared_width: int


@dataclass(frozen=True)
class RowScores:
    """One entry a row, in the order of the rows; calibration over all tokens.

    `eos_nats` are the nats of the tokens that end an answer; `nats` includes them. KL and agreement are None without a
    shared teacher.
    """

    keys: tuple[str, ...]
    nats: Tensor
    eos_nats: Tensor
    eos_tokens: Tensor
    tokens: Tensor
    correct: Tensor
    kl: Tensor | None
    agree: Tensor | None
    calibration: Calibration


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    *,
    collator: Collator,
    batch_size: int,
    stop_ids: Sequence[int],
    shared: SharedTeacher | None = None,
    after_batch: Callable[[int], None] | None = None,
) -> RowScores:
    """Return sums over the scored tokens of each row, in float64.

    Args:
        stop_ids: ids that end an answer.
        after_batch: called with the number of rows of each finished batch, for progress.
    """
    was_training = model.training
    model.eval()
    columns = {name: torch.zeros(len(rows), dtype=torch.float64) for name in _COLUMNS}
    ends = torch.tensor(sorted(stop_ids))
    # rows of similar length share a batch; results are put back by row index
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    confidence, right = [], []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collator([IndexedRow(index, rows[index]) for index in chosen])
        found = {name: values.double().cpu() for name, values in _batch_values(model, batch, shared).items()}
        found["eos_tokens"] = torch.isin(scored_targets(batch), ends).double()
        found["eos_nats"] = found["nats"] * found["eos_tokens"]
        confidence.append(found.pop("confidence"))
        right.append(found["correct"])
        for name, values in found.items():
            columns[name].index_add_(0, scored_rows(batch), values)
        if after_batch is not None:
            after_batch(len(chosen))
    model.train(was_training)
    return RowScores(
        keys=tuple(row.key for row in rows),
        nats=columns["nats"],
        eos_nats=columns["eos_nats"],
        eos_tokens=columns["eos_tokens"],
        tokens=columns["tokens"],
        correct=columns["correct"],
        kl=columns["kl"] if shared else None,
        agree=columns["agree"] if shared else None,
        calibration=calibration(torch.cat(confidence), torch.cat(right)),
    )


def _batch_values(model: PreTrainedModel, batch: TokenBatch, shared: SharedTeacher | None) -> dict[str, Tensor]:
    """Return name -> (N,) values, on the model's device."""
    device = next(model.parameters()).device
    targets_N = scored_targets(batch).to(device)
    signal = TeacherSignal() if shared is None else shared.teacher.signal(batch, _whole(shared))
    found: dict[str, Tensor] = {}

    def read(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
        hidden_ND = at_scored(hidden_BLD, batch)
        width = head.weight_VD.shape[0]
        # a chunk of rows at a time, in the same memory, and read in sub-chunks: nothing of size tokens × vocabulary is
        # made, and a figure's tensors are small
        rows = chunks(hidden_ND.shape[0], width, device)
        memory = hidden_ND.new_empty(rows[0].stop if rows else 0, width)
        # made before the loop: small tensors that are kept, between large ones that are freed, would keep the allocator
        # from reusing their memory
        kind = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        names = (*_OF_STUDENT, *(() if signal.scores is None else _OF_TEACHER))
        found.update({name: torch.empty(hidden_ND.shape[0], dtype=kind, device=device) for name in names})
        for here in rows:
            chunk = head.product(hidden_ND[here], out=memory[: here.stop - here.start])
            teacher = None if signal.scores is None else signal.scores.chunk(here, device)
            for part in sub_chunks(chunk.shape[0], width, device):
                student = StudentScores(head.finish(chunk[part]), targets_N[here][part])
                scores = None if teacher is None else teacher.rows(part)
                for name, values in _values(student, scores, shared.shared_width if shared else 0).items():
                    found[name][here][part] = values
        return hidden_ND

    with_lm_head(model, batch, read, device=device)
    return found


def _whole(shared: SharedTeacher) -> SignalRequest:
    return SignalRequest(scores=frozenset({Distribution(shared.shared_width)}))


def _values(student: StudentScores, teacher: NextTokens | None, width: int) -> dict[str, Tensor]:
    targets_N = student.targets_N
    nats_N, best = CrossEntropy().per_position(student, None), student.logits_NV.max(dim=-1)
    above_target_N = best.values.float() - student.logits_NV.gather(1, targets_N[:, None])[:, 0].float()
    values = {
        "nats": nats_N,
        "correct": (best.indices == targets_N).float(),
        "tokens": torch.ones_like(targets_N, dtype=torch.float32),
        # rounding can take the nats of a certain token below zero
        "confidence": (above_target_N - nats_N).exp().clamp(max=1.0),
    }
    if teacher is not None:
        values["kl"] = forward_kl(student_logp=student.logp(width, 1.0), teacher_logp=teacher.logp(width, 1.0))
        agree = student.logits_NV[:, :width].argmax(dim=-1) == teacher.logp(width, 1.0).argmax(dim=-1)
        values["agree"] = agree.float()
    return values


def bits_per_byte(scores: RowScores, *, scored_bytes: int) -> float:
    """Return the bits per byte of the scored text: Σ nats of the tokens but EOS / (bytes · ln 2).

    Args:
        scored_bytes: UTF-8 bytes of the text of those tokens (`Encoder.scored_bytes`), summed over the rows.
    Source: `bits_per_byte` of EleutherAI's lm-evaluation-harness, which scores no EOS.
    """
    return float(scores.nats.sum() - scores.eos_nats.sum()) / math.log(2) / scored_bytes


def summarise(scores: RowScores, *, scored_bytes: int) -> EvaluationRecord:
    """Return the teacher-forced metrics: means over all scored tokens, EOS too; bits per byte over the text alone."""
    tokens = float(scores.tokens.sum())
    ends = float(scores.eos_tokens.sum())
    alone = None if scores.kl is not None else "no teacher shares the model's tokens"
    metric = partial(Metric, n=len(scores.keys), sample="held-out rows")
    metrics = (
        metric(
            name=PRIMARY,
            label="held-out",
            unit="nats/token",
            direction="lower",
            value=float(scores.nats.sum()) / tokens,
            level="summary",
            meaning="mean of −ln(probability) that a model gives to the next true token of answers it was not trained "
            "on; e to this power is the perplexity. It compares only models with the same tokenizer.",
        ),
        metric(
            name="bits_per_byte",
            label="bits/byte",
            unit="bits",
            direction="lower",
            value=bits_per_byte(scores, scored_bytes=scored_bytes),
            level="summary",
            meaning="the same information divided by the bytes of the text (without EOS, as in lm-evaluation-harness), "
            "so that models with different tokenizers can be compared.",
        ),
        metric(
            name="token_accuracy",
            label="token accuracy",
            unit="share",
            direction="higher",
            value=float(scores.correct.sum()) / tokens,
            meaning="share of held-out tokens that are the model’s most likely token.",
        ),
        metric(
            name="kl_from_teacher",
            label="KL from teacher",
            unit="nats/token",
            direction="lower",
            value=None if scores.kl is None else float(scores.kl.sum()) / tokens,
            missing=alone,
            level="summary",
            meaning="KL(teacher ‖ student), the forward direction: expected under the teacher’s distribution, a token, "
            "in nats. Zero means equal distributions. Given only where the two share their tokens.",
        ),
        metric(
            name="top1_agreement",
            label="top-1 agreement",
            unit="share",
            direction="higher",
            value=None if scores.agree is None else float(scores.agree.sum()) / tokens,
            missing=alone,
            meaning="share of held-out positions at which student and teacher prefer the same token.",
        ),
        metric(
            name="confidence",
            label="confidence",
            unit="share",
            direction=None,
            value=scores.calibration.confidence,
            level="record",
            meaning="mean probability of the model’s most likely token; above the token accuracy: over-confident.",
        ),
        metric(
            name="expected_calibration_error",
            label="calibration error",
            unit="share",
            direction="lower",
            value=scores.calibration.expected_error,
            level="record",
            meaning="mean distance of confidence and accuracy, in 15 bins of confidence (ECE).",
        ),
        metric(
            name="eos_nats",
            label="EOS loss",
            unit="nats/token",
            direction="lower",
            value=float(scores.eos_nats.sum()) / ends if ends else None,
            missing=None if ends else "no held-out answer ends with EOS",
            level="record",
            meaning="the held-out loss of the tokens that end an answer; part of nats/token, not of bits/byte.",
        ),
    )
    return EvaluationRecord(tokens=int(tokens), scored_bytes=scored_bytes, metrics=metrics)
