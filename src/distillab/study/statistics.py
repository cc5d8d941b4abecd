"""Intervals for paired differences over seeds and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from distillab.records import Interval


def paired_interval(
    arm: Sequence[NDArray[np.float64]],
    base: Sequence[NDArray[np.float64]],
    tokens: NDArray[np.float64],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Difference of nats a token, arm − base, with an interval over seeds and over rows.

    Both sides were trained with the same seeds and judged on the same rows, so differences are formed
    seed by seed and row by row before anything is averaged. Two sources of variance are added: between
    seeds (S differences), and between rows (the ratio estimator's linearised residuals of the seed mean).
    The degrees of freedom are Satterthwaite's, so that three seeds give the wide interval they deserve.

    Args:
        arm, base: for each seed, (R,) nats of each row.
        tokens: (R,) scored tokens of each row.
    Returns:
        mean, low, high in nats a token; low and high are infinite with one seed and one row.
    """
    differences = np.stack(arm) - np.stack(base)  # (S, R)
    seeds, rows = differences.shape
    total = float(tokens.sum())
    by_seed = differences.sum(axis=1) / total
    mean = float(by_seed.mean())
    parts: list[tuple[float, int]] = []
    if seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))
    if rows > 1:
        residuals = differences.mean(axis=0) - mean * tokens
        parts.append((float((residuals**2).sum()) * rows / (rows - 1) / total**2, rows - 1))
    variance = sum(part for part, _ in parts)
    if not parts:
        return Interval(mean=mean, low=-math.inf, high=math.inf)
    if variance == 0.0:
        return Interval(mean=mean, low=mean, high=mean)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(student_t.ppf(0.5 + confidence / 2, freedom)) * math.sqrt(variance)
    return Interval(mean=mean, low=mean - half, high=mean + half)
