"""Check whether a BOS token before the row makes the teacher better or worse."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from distillab.data.encoding import EncodedRow
from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.pair.queries import affordable_tokens, evaluating, read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.evaluation.likelihood import score_rows

_BATCH = 8
_MIN_ROWS = 8
_MOST_TOKENS = 4_096
CLEARLY_WORSE = 0.1
ERRORS = 3.0


@dataclass(frozen=True)
class _Both:
    """One text with and without a BOS token; the same tokens are scored, and never the first one."""

    begun: EncodedRow
    bare: EncodedRow


@check("BOS token")
def check_begin(subject: PairSubject) -> Checked:
    """Compare the teacher's nats on the same tokens with its BOS token before the row and without."""
    yield Scope("the teacher's nats with and without its BOS token")
    teacher = subject.running_teacher
    bos = subject.teacher.tokenizer.bos_token_id
    if bos is None:
        raise Skipped("the teacher's tokenizer has no BOS token")
    most = min(_MOST_TOKENS, affordable_tokens(teacher))
    read = read_rows(subject.input_reader, subject.examples, teacher, most_tokens=most)
    used = [bool(row.input_ids[0] == bos) for row in read.rows]
    pairs = [_both(row, bos) for row in read.rows]
    pairs = [pair for pair in pairs if pair.bare.answer_mask.any()]
    if len(pairs) < _MIN_ROWS:
        raise Skipped(f"{len(pairs)} rows; {_MIN_ROWS} are needed")
    if len(set(used)) > 1:
        raise Skipped("some rows begin with the token, and some do not")
    begun = _nats(teacher, subject, [pair.begun for pair in pairs])
    bare = _nats(teacher, subject, [pair.bare for pair in pairs])
    tokens = sum(int(pair.bare.answer_mask.sum()) for pair in pairs)
    with_it, without = float(begun.sum()) / tokens, float(bare.sum()) / tokens
    figures = f"{with_it:.3f} nats per token with its BOS token, {without:.3f} without; {tokens:,} tokens"
    mine, other = (begun, bare) if used[0] else (bare, begun)
    yield Scope(f"the teacher: {figures}, {len(pairs)} rows, which {'have' if used[0] else 'do not have'} it")
    if clearly_worse(mine, other):
        yield from_page("teacher-begin-token", figures, case="with" if used[0] else "without")


def clearly_worse(mine: np.ndarray, other: np.ndarray) -> bool:
    """Return whether the nats of the rows are clearly higher than in another form: by a tenth, and not by chance.

    Args:
        mine, other: one entry a row, in the same order.
    """
    worse = mine - other
    chance = ERRORS * float(worse.std(ddof=1)) / math.sqrt(len(worse))
    return float(worse.mean()) > chance and float(mine.sum()) > (1 + CLEARLY_WORSE) * float(other.sum())


def _both(row: EncodedRow, bos: int) -> _Both:
    begins = bool(row.input_ids[0] == bos)
    ids = row.input_ids[1:] if begins else row.input_ids
    mask = (row.answer_mask[1:] if begins else row.answer_mask).copy()
    # without a BOS token nothing precedes the first one
    mask[:1] = False
    begun = np.concatenate([np.asarray([bos], dtype=np.int32), ids])
    return _Both(
        begun=replace(row, input_ids=begun, answer_mask=np.concatenate([np.zeros(1, dtype=np.bool_), mask])),
        bare=replace(row, input_ids=ids, answer_mask=mask),
    )


def _nats(model: PreTrainedModel, subject: PairSubject, rows: list[EncodedRow]) -> np.ndarray:
    with evaluating(model):
        scores = score_rows(
            model,
            rows,
            collator=subject.input_reader.collator(),
            batch_size=_BATCH,
            stop_ids=subject.input_reader.encoder.stop_ids,
        )
    return scores.nats.numpy()
