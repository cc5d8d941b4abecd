"""Compute intervals for paired differences over seeds and rows, and adjust for several comparisons.

Shape letters: N studies (1 outside of simulations), S seeds, R held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

from distillab.records import FEWEST_ROWS, Interval, Recovered

Floats = NDArray[np.float64]

# Share of the error rate for the t interval over seeds. Seed effects are often skewed (one bad run), and a t interval
# of few skewed values covers 88 % instead of 95; with two seeds it is as wide as is useful.
_SEED_SHARE = {2: 1.0, 3: 0.82}
_SEED_SHARE_OF_MORE = 0.58


@dataclass(frozen=True)
class Spread:
    """A mean difference and the two parts of its variance; arrays (N,), one entry a study.

    Attributes:
        mean: nats per token.
        by_seed: variance over seeds of the mean, with the interaction of seeds and rows; 0 with one seed.
        by_row: variance over rows beyond that.
        seeds, rows: how many.
    """

    mean: Floats
    by_seed: Floats
    by_row: Floats
    seeds: int
    rows: int

    def half_width(self, error: float) -> Floats:
        """Return half the width of the interval that misses with the probability `error`.

            H² = t²(S − 1; error · share) · V_seed + t²(R − 1; error) · V_row

        Two intervals, each with its own degrees of freedom, added in quadrature (MOVER): never narrower than t over
        seeds, and not as wide as t with S − 1 degrees of freedom if rows dominate the variance.

        Source: Howe 1974; Zou and Donner 2008, Construction of confidence limits about effect measures (MOVER).
        """
        square = np.zeros_like(self.mean)
        if self.seeds > 1:
            share = _SEED_SHARE.get(self.seeds, _SEED_SHARE_OF_MORE)
            square = square + _t(error * share, self.seeds - 1) ** 2 * self.by_seed
        if self.rows > 1:
            square = square + _t(error, self.rows - 1) ** 2 * self.by_row
        return np.sqrt(square)


def spread(differences_NSR: Floats, tokens_NR: Floats) -> Spread:
    """Return mean and variance of N paired comparisons, each of S seeds on the same R rows.

    The model is crossed: a difference has a part of its seed, one of its row, and one of seed and row together. The
    last one is in the variance over seeds (S seed means) and in that over rows (the ratio estimator's linearised
    residuals of the mean over seeds); it is estimated from the rest, and counted once.

    Args:
        differences_NSR: nats of a row, arm − SFT.
        tokens_NR: scored tokens of the row.
    """
    _, seeds, rows = differences_NSR.shape
    total_N = tokens_NR.sum(axis=1)
    by_seed_NS = differences_NSR.sum(axis=2) / total_N[:, None]
    mean_N = by_seed_NS.mean(axis=1)
    none = np.zeros_like(mean_N)
    row_means_NR = differences_NSR.mean(axis=1)
    residuals_NR = row_means_NR - mean_N[:, None] * tokens_NR
    correction = rows / max(rows - 1, 1) / total_N**2
    over_rows_N = (residuals_NR**2).sum(axis=1) * correction
    if seeds == 1:
        return Spread(mean_N, none, over_rows_N, seeds, rows)
    off_N1S = (by_seed_NS - mean_N[:, None])[:, :, None]
    left_over_NSR = differences_NSR - row_means_NR[:, None] - off_N1S * tokens_NR[:, None]
    together_N = (left_over_NSR**2).sum(axis=(1, 2)) / (seeds - 1) / seeds * correction
    by_row_N = np.maximum(over_rows_N - together_N, 0.0)
    return Spread(mean_N, by_seed_NS.var(axis=1, ddof=1) / seeds, by_row_N, seeds, rows)


def paired_interval(
    arm: Sequence[Floats],
    base: Sequence[Floats],
    tokens: Floats,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Return the difference of nats per token, arm − base, with an interval over seeds and over rows.

    Arm and baseline were trained with the same seeds and evaluated on the same rows, so differences are formed
    seed by seed and row by row before anything is averaged. See `spread` and `Spread.half_width`; how often it covers
    the truth is simulated in `bench/intervals.py`.

    Args:
        arm, base: for each seed, (R,) nats of each row.
        tokens: (R,) scored tokens of each row.
    Returns:
        mean, low, high in nats per token, and the p-value of no difference; no low and high, and a p-value of 1, on
        fewer than `FEWEST_ROWS` rows.
    """
    found = spread((np.stack(arm) - np.stack(base))[None], tokens[None])
    mean = float(found.mean[0])
    if found.rows < FEWEST_ROWS:
        return Interval(mean=mean, low=None, high=None, p=1.0, rows=found.rows, seeds=found.seeds)
    half = float(found.half_width(1 - confidence)[0])
    return Interval(mean=mean, low=mean - half, high=mean + half, p=p_value(found), rows=found.rows, seeds=found.seeds)


def recovered_gap(
    arm: Sequence[Floats],
    base: Sequence[Floats],
    teacher: Sequence[Floats],
    tokens: Floats,
    *,
    confidence: float = 0.95,
) -> Recovered:
    """Return the share of the way from the baseline to the teacher that an arm has gone, with its interval.

        share = mean(arm − base) / mean(teacher − base)

    The interval holds every share g for which arm and (1 − g) · base + g · teacher do not differ beyond the interval of
    `paired_interval`. It has two ends exactly where teacher and baseline differ beyond theirs.

    Args:
        arm, base, teacher, tokens: as of `paired_interval`; a teacher has the same rows for each seed.
    Raises:
        ValueError: teacher and baseline do not differ beyond the interval.
    Source: Fieller 1954, Some problems in interval estimation.
    """
    gained, gap = np.stack(arm) - np.stack(base), np.stack(teacher) - np.stack(base)

    def beyond(share: float) -> float:
        found = spread((gained - share * gap)[None], tokens[None])
        return float(abs(found.mean[0]) - found.half_width(1 - confidence)[0])

    whole = spread(gap[None], tokens[None])
    if not abs(whole.mean[0]) > whole.half_width(1 - confidence)[0]:
        raise ValueError("teacher and baseline do not differ beyond the interval")
    share = float(gained.sum() / gap.sum())
    low, high = (_edge(beyond, share, step) for step in (-0.5, 0.5))
    return Recovered(share=share, low=low, high=high)


def _edge(beyond: Callable[[float], float], start: float, step: float) -> float:
    """Return the first zero of `beyond` from `start`, where it is above 0 by rounding alone, in steps of `step`."""
    if beyond(start) >= 0.0:
        return start
    end = start + step
    while beyond(end) <= 0.0:
        step *= 2
        end += step
    return float(brentq(beyond, start, end))


def p_value(found: Spread) -> float:
    """Return the error rate at which the interval of one comparison just touches 0."""
    mean = abs(float(found.mean[0]))

    def over(log_error: float) -> float:
        return float(found.half_width(math.exp(log_error))[0]) - mean

    least = math.log(1e-12)
    if not mean > 0.0:
        return 1.0
    if over(least) <= 0.0:
        return math.exp(least)
    return math.exp(float(brentq(over, least, 0.0))) if over(0.0) < 0.0 else 1.0


def adjusted(intervals: Sequence[Interval]) -> list[Interval]:
    """Return the comparisons of several arms with SFT, in the same order, with Holm's adjusted p-values added.

    If no arm differs from SFT, none has an adjusted p-value below 0.05 in 95 of 100 studies, for any dependence of the
    arms. The intervals are not adjusted.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    found = list(intervals)
    largest = 0.0
    order = sorted(range(len(found)), key=lambda index: _p(found[index]))
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, _p(found[index]) * (len(found) - rank)))
        found[index] = found[index].model_copy(update={"adjusted_p": largest, "comparisons": len(found)})
    return found


def _p(interval: Interval) -> float:
    assert interval.p is not None  # of `paired_interval`
    return interval.p


def _t(error: float, freedom: int) -> float:
    # as scipy.stats.t.isf, without the import of scipy.stats
    return -float(stdtrit(freedom, error / 2))
