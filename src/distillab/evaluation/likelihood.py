"""Score held-out answers under teacher forcing, row by row: loss, accuracy, KL and agreement.

Shape letters: N flattened scored positions, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.divergences import forward_kl, total_variation
from distillab.evaluation.calibration import Calibration, calibration
from distillab.models.batch import TokenBatch
from distillab.models.chunking import chunks, sub_chunks
from distillab.models.heads import OutputHead, with_lm_head
from distillab.models.scoring import at_scored, scored_rows, scored_targets
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.term import StudentScores
from distillab.processes import ONE_PROCESS, Processes
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import Distribution, NextTokens, SignalRequest, TeacherSignal, Top

# what is computed at every scored position
_OF_STUDENT, _OF_TEACHER = ("nats", "correct", "tokens", "confidence"), ("kl", "agree", "acceptance")
_COLUMNS = ("nats", "eos_nats", "eos_tokens", "tokens", "correct", *_OF_TEACHER)


@dataclass(frozen=True)
class SharedTeacher:
    """A teacher whose distribution can be compared with the student's, id by id.

    Attributes:
        reads_any_text: False for a cache, which holds the held-out rows alone.
    """

    teacher: SignalSource
    shared_width: int
    reads_any_text: bool = True


@dataclass(frozen=True)
class RowScores:
    """One entry a row, in the order of the rows; calibration over all tokens.

    `eos_nats` are the nats of the tokens that end an answer; `nats` includes them. KL, agreement and acceptance are
    None without a shared teacher. `first_row_nats` are those of each scored token of the first row.
    """

    keys: tuple[str, ...]
    nats: Tensor
    eos_nats: Tensor
    eos_tokens: Tensor
    tokens: Tensor
    correct: Tensor
    kl: Tensor | None
    agree: Tensor | None
    acceptance: Tensor | None
    calibration: Calibration
    first_row_nats: Tensor | None = None


_NONE = torch.zeros(0, dtype=torch.float64)
NO_ROWS = RowScores((), _NONE, _NONE, _NONE, _NONE, _NONE, None, None, None, Calibration(0, 0.0, 0.0, 0.0))


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
    processes: Processes = ONE_PROCESS,
) -> RowScores:
    """Return sums over the scored tokens of each row, in float64.

    Args:
        stop_ids: ids that end an answer.
        after_batch: called with the number of rows that have been finished since, for progress.
        processes: that all make this call; each scores a part of the batches, and has the scores of all.
    """
    was_training = model.training
    model.eval()

    def values(batch: TokenBatch) -> dict[str, Tensor]:
        return _batch_values(model, batch, shared)

    found = _sums(
        values,
        rows,
        collator,
        batch_size,
        stop_ids,
        shared=shared is not None,
        after_batch=after_batch,
        processes=processes,
    )
    model.train(was_training)
    return found


def score_teacher(
    teacher: SignalSource,
    rows: Sequence[EncodedRow],
    *,
    width: int,
    collator: Collator,
    batch_size: int,
    stop_ids: Sequence[int],
    after_batch: Callable[[int], None] | None = None,
) -> RowScores:
    """Return the same of a teacher whose weights are not here, from its most likely token and the one that follows.

    Args:
        width: ids of its distribution.
    """
    request = SignalRequest(scores=frozenset({Top(1, width)}))

    def values(batch: TokenBatch) -> dict[str, Tensor]:
        targets_N, scores = scored_targets(batch), teacher.signal(batch, request).scores
        assert scores is not None  # they were asked for
        parts = []
        for here in chunks(len(targets_N), width, scores.device):
            given = scores.chunk(here, targets_N.device)
            best = given.top(1, width, 1.0)
            parts.append(
                {
                    "nats": -given.actual(targets_N[here], width, 1.0),
                    "correct": (best.ids[:, 0] == targets_N[here]).float(),
                    "tokens": torch.ones_like(best.logp[:, 0]),
                    "confidence": best.logp[:, 0].exp(),
                }
            )
        return {name: torch.cat([part[name] for part in parts]) for name in _OF_STUDENT}

    return _sums(
        values, rows, collator, batch_size, stop_ids, shared=False, after_batch=after_batch, processes=ONE_PROCESS
    )


def _sums(
    values: Callable[[TokenBatch], dict[str, Tensor]],
    rows: Sequence[EncodedRow],
    collator: Collator,
    batch_size: int,
    stop_ids: Sequence[int],
    *,
    shared: bool,
    after_batch: Callable[[int], None] | None,
    processes: Processes,
) -> RowScores:
    """Return the sums over each row's tokens of the values at all positions; rows of similar length share a batch."""
    columns = {name: torch.zeros(len(rows), dtype=torch.float64) for name in _COLUMNS}
    ends = torch.tensor(sorted(stop_ids))
    # results are put back by row index
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    # of each token: the batch that it is in, the confidence, whether it was right, its nats if it is of the first row
    tokens = [_NONE.new_zeros(0, 4)]
    for number, counts in processes.dealt(len(batches)):
        chosen = batches[number]
        batch = collator([IndexedRow(index, rows[index]) for index in chosen])
        found = {name: column.double().cpu() for name, column in values(batch).items()}
        if not counts:
            continue
        found["eos_tokens"] = torch.isin(scored_targets(batch), ends).double()
        found["eos_nats"] = found["nats"] * found["eos_tokens"]
        confidence = found.pop("confidence")
        of_first = torch.where(scored_rows(batch) == 0, found["nats"], torch.nan)
        tokens.append(torch.stack([torch.full_like(confidence, number), confidence, found["correct"], of_first], dim=1))
        for name, column in found.items():
            columns[name].index_add_(0, scored_rows(batch), column)
        if after_batch is not None:
            after_batch(sum(map(len, batches[number : number + processes.count])))
    # a row is scored by one process, and is 0 in the others
    columns = {name: processes.sum(column) for name, column in columns.items()}
    joined = processes.joined(torch.cat(tokens))
    _, confidence_N, right_N, of_first_N = joined[joined[:, 0].argsort(stable=True)].unbind(dim=1)
    return RowScores(
        keys=tuple(row.key for row in rows),
        nats=columns["nats"],
        eos_nats=columns["eos_nats"],
        eos_tokens=columns["eos_tokens"],
        tokens=columns["tokens"],
        correct=columns["correct"],
        **{name: columns[name] if shared else None for name in _OF_TEACHER},
        calibration=calibration(confidence_N, right_N),
        first_row_nats=of_first_N[~of_first_N.isnan()],
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
        both = {"student_logp": student.logp(width, 1.0), "teacher_logp": teacher.logp(width, 1.0)}
        values["kl"] = forward_kl(**both)
        values["agree"] = (student.logits_NV[:, :width].argmax(dim=-1) == both["teacher_logp"].argmax(dim=-1)).float()
        values["acceptance"] = 1.0 - total_variation(**both)
    return values
