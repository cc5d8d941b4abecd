"""`audit_scores`: do a server's log-probabilities of given tokens belong to these tokens?

Shapes: B sequences, L positions, n pairs of scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillab.doctor.page import from_page
from distillab.errors import DataError, ShapeError
from distillab.records import CheckResult, Finding

CHECK_ID = "scores of a server"
_OFFSETS = (0, -1, 1, -2, 2)
_FEWEST = 64
_SURE = 5.0  # standard errors
_LEAST = 0.25  # two models of stories 0.85, one token beside 0.21, other rows 0.14
_Floats = NDArray[np.float64]


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
    ours, theirs = _known(reference, mask, "reference"), _known(scores, mask, "scores")
    found = [_at(ours, theirs, offset) for offset in _OFFSETS]
    here, others = found[0], found[1:]
    scope = f"{here.n:,} tokens of {len(scores)} rows"
    if here.n < _FEWEST:
        return CheckResult(check=CHECK_ID, scope=scope, skipped=f"fewer than {_FEWEST} tokens")
    if any(math.isnan(one.value) for one in found):
        return CheckResult(check=CHECK_ID, scope=scope, skipped="one of the two gives all tokens the same value")
    finding = _judged(here, max(others, key=lambda one: one.value))
    scope += f"; rank correlation {here.value:.2f}"
    return CheckResult(check=CHECK_ID, scope=scope, findings=() if finding is None else (finding,))


def _judged(here: _Correlation, best: _Correlation) -> Finding | None:
    line = f"rank correlation with the reference over {here.n:,} tokens: {here.value:.2f}, ± {here.error:.2f}"
    if best.value > _LEAST and best.value - here.value > _SURE * math.hypot(here.error, best.error):
        return from_page(
            "scores-shifted",
            line,
            f"read {abs(best.offset)} {'later' if best.offset > 0 else 'earlier'}: {best.value:.2f}",
            words={"offset": f"{best.offset:+d}"},
        )
    if here.value < max(_LEAST, 3 * here.error):
        return from_page("scores-unrelated", line)
    return None


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
    x, y = _ranks(x[both]), _ranks(y[both])
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    size = math.sqrt(float(x @ x) * float(y @ y))
    return _Correlation(offset, float(x @ y) / size if size else math.nan, len(x))


def _ranks(values: _Floats) -> _Floats:
    """Return the rank of each value; equal ones have their mean."""
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + upto) / 2
