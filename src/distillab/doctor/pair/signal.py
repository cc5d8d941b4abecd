"""`audit_signal`: are these teacher's logits about these tokens? Tensors alone; no tokenizer is needed.

Shapes: B sequences, L positions, W teacher's logits, V student's logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from distillab.doctor.checks import Checked, Scope, Skipped, from_page, recorded
from distillab.doctor.pair.measures import MAX_ELEMENTS, SignalRow, measure_signal, signal_row, tokens_test
from distillab.doctor.pair.verdict import judged
from distillab.errors import DataError, ShapeError
from distillab.records import CheckResult

_OFFSETS = (0, -1, 1, -2, 2)
_FEWEST = 64
_SURE = 5.0  # standard errors
_LEAST = 0.25  # two models of stories 0.85, one token beside 0.21, other rows 0.14
_Floats = NDArray[np.float64]


def audit_signal(
    teacher_logits: Tensor,
    student_ids: Tensor,
    student_logits: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    *,
    own: tuple[Tensor, Tensor] | None = None,
) -> CheckResult:
    """Test whether a teacher's logits belong to the tokens at their positions.

    The logits at position t are taken to predict the id at t + 1, as in transformers. Compared are the pairing as it is
    given and shuffled ones; nothing is known of tokens but their ids.

    Args:
        teacher_logits: (B, L, W) raw scores or log-probabilities, as a loss by index would get them.
        student_ids: (B, L) integers, the student's input ids.
        student_logits: (B, L, V) of a student that has learned something; None: it is random, or not there.
        mask: (B, L) True where a token is scored, not moved; None: every token but the first.
        seed: of the shuffles.
        own: logits (b, l, W) and ids (b, l) of the same teacher at its own tokens, on the same text. If it is good
            there, a signal that does not fit is an error; without the proof that it knows the text, a warning.
    Returns:
        one record; `skipped` where there is too little data.
    Raises:
        ShapeError: the tensors do not fit together.
        DataError: ids that are no integers; logits with NaN or infinite values other than −inf; no position is scored.
    """
    _require(teacher_logits, student_ids, student_logits, mask)
    width = teacher_logits.shape[2] if student_logits is None else min(teacher_logits.shape[2], student_logits.shape[2])
    scored_BL = _scored(student_ids, mask)
    beyond = int((scored_BL & (student_ids >= width)).sum())
    scored_BL &= student_ids < width
    rows = _rows(teacher_logits, student_ids, student_logits, scored_BL)
    if not rows:
        raise DataError(
            "No position is scored.",
            facts=[f"{beyond:,} tokens have an id for which there is no logit" if beyond else "the mask is empty"],
        )
    measures = measure_signal(rows, seed=seed)
    what = f"{measures.positions:,} scored tokens of {len(rows)} rows, {width:,} logits"
    if beyond:
        what += f"; {beyond:,} tokens with an id beyond the logits are left out"
    control = None
    if own is not None:
        _require(own[0], own[1], None, None)
        inside_BL = _scored(own[1], None) & (own[1] < own[0].shape[2])
        control = tokens_test(_rows(own[0], own[1], None, inside_BL), seed=seed)
    return recorded("alignment", judged(measures, scope=what, own=control))


def _scored(ids_BL: Tensor, mask: Tensor | None) -> Tensor:
    scored_BL = torch.ones_like(ids_BL, dtype=torch.bool) if mask is None else mask.bool().clone()
    # nothing precedes the first token that could predict it
    scored_BL[:, 0] = False
    return scored_BL


def _rows(teacher: Tensor, ids: Tensor, student: Tensor | None, scored_BL: Tensor) -> list[SignalRow]:
    rows = []
    left = max(1, MAX_ELEMENTS // teacher.shape[2])
    for number in range(len(ids)):
        places = scored_BL[number].nonzero()[:, 0][:left]
        if not len(places):
            continue
        left -= len(places)
        student_logits = None if student is None else student[number, places - 1]
        rows.append(signal_row(places, ids[number, places], teacher[number, places - 1], student_logits))
    return rows


def _require(teacher: Tensor, ids: Tensor, student: Tensor | None, mask: Tensor | None) -> None:
    tensors: Sequence[tuple[str, Tensor | None, int]] = (
        ("teacher_logits", teacher, 3),
        ("student_ids", ids, 2),
        ("student_logits", student, 3),
        ("mask", mask, 2),
    )
    wrong = [
        f"{name}: {tuple(tensor.shape)}"
        for name, tensor, dimensions in tensors
        if tensor is not None and (tensor.ndim != dimensions or tensor.shape[:2] != ids.shape[:2])
    ]
    if wrong or 0 in teacher.shape:
        raise ShapeError(
            "Logits are (B, L, width); ids and mask are (B, L).",
            facts=[f"student_ids: {tuple(ids.shape)}", *(wrong or [f"teacher_logits: {tuple(teacher.shape)}"])],
            fix="give the logits at all positions, also those that are not scored",
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DataError("Ids are integers.", where="student_ids", facts=[f"dtype {ids.dtype}"])
    if int(ids.min()) < 0 and (mask is None or bool((ids[mask.bool()] < 0).any())):
        raise DataError("An id is negative.", where="student_ids", facts=[f"lowest: {int(ids.min())}"])


@dataclass(frozen=True)
class _Correlation:
    """Of ranks, at an offset, over n pairs."""

    offset: int
    value: float
    n: int

    @property
    def error(self) -> float:
        return 1 / math.sqrt(max(1, self.n))


def audit_scores(scores: Tensor, reference: Tensor, mask: Tensor | None = None) -> CheckResult:
    """Compare log-probabilities of the same tokens by two models: a token that is hard for one is hard for the other.

    So their rank correlation is high at the right position, and near 0 one token beside it.

    Args:
        scores: (B, L) what a server gave for each token of its text, in nats; NaN where it gave nothing.
        reference: (B, L) of the same tokens by the student, or any model that has learned such text.
        mask: (B, L) True where a token is compared; None: wherever both are finite.
    Returns:
        one record; `skipped` where there are fewer than 64 tokens, or one side has the same value everywhere.
    Raises:
        ShapeError: the tensors do not fit together.
        DataError: a score is above 0.01: no log-probability.
    """
    if scores.ndim != 2 or scores.shape != reference.shape or (mask is not None and mask.shape != scores.shape):
        raise ShapeError(
            "Scores, reference and mask are (B, L).",
            facts=[f"scores: {tuple(scores.shape)}", f"reference: {tuple(reference.shape)}"]
            + ([] if mask is None else [f"mask: {tuple(mask.shape)}"]),
        )
    return recorded(
        "scores of a server", _compared(_known(reference, mask, "reference"), _known(scores, mask, "scores"))
    )


def _compared(ours: _Floats, theirs: _Floats) -> Checked:
    here, *others = (_at(ours, theirs, offset) for offset in _OFFSETS)
    scope = f"{here.n:,} tokens of {len(ours)} rows"
    yield Scope(scope)
    if here.n < _FEWEST:
        raise Skipped(f"fewer than {_FEWEST} tokens")
    if any(math.isnan(one.value) for one in (here, *others)):
        raise Skipped("one of the two gives all tokens the same value")
    yield Scope(f"{scope}; rank correlation {here.value:.2f}")
    best = max(others, key=lambda one: one.value)
    line = f"rank correlation with the reference over {here.n:,} tokens: {here.value:.2f}, ± {here.error:.2f}"
    if best.value > _LEAST and best.value - here.value > _SURE * math.hypot(here.error, best.error):
        yield from_page(
            "scores-shifted",
            line,
            f"read {abs(best.offset)} {'later' if best.offset > 0 else 'earlier'}: {best.value:.2f}",
            words={"offset": f"{best.offset:+d}"},
        )
    elif here.value < max(_LEAST, 3 * here.error):
        yield from_page("scores-unrelated", line)


def _known(values: Tensor, mask: Tensor | None, whose: str) -> _Floats:
    """Return (B, L) float64, NaN where nothing is compared; −inf is kept: it has a rank."""
    found = values.detach().to("cpu", torch.float64)
    if bool((found > 0.01).any()):
        raise DataError(
            "A log-probability is at most 0.",
            where=whose,
            facts=[f"largest: {float(found[~found.isnan()].max()):.3g}"],
            fix="give natural logarithms of probabilities, and not logits or probabilities",
        )
    if mask is not None:
        found = found.masked_fill(~mask.bool().cpu(), math.nan)
    array: _Floats = found.numpy()
    return array


def _at(ours: _Floats, theirs: _Floats, offset: int) -> _Correlation:
    """Correlate the reference at t with the scores at t + offset."""
    length = ours.shape[1]
    first, last = max(0, -offset), length - max(0, offset)
    x, y = ours[:, first:last].ravel(), theirs[:, first + offset : last + offset].ravel()
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = rankdata(x[both]), rankdata(y[both])
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    size = math.sqrt(float(x @ x) * float(y @ y))
    return _Correlation(offset, float(x @ y) / size if size else math.nan, len(x))
