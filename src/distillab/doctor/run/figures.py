"""Figures of a log that contradict each other: below zero, parts that are in no sum, an evaluation that is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.page import from_page
from distillab.doctor.run.columns import significant_digits
from distillab.doctor.run.series import RunSeries
from distillab.records import CheckResult, Finding

_FEWEST = 5
_NEARLY_ALL = 0.95
_DIGITS = 4


def check_figures(series: RunSeries) -> CheckResult:
    """Check for losses below zero, a part that equals the whole, and held-out losses that are training losses.

    Args:
        series: in order.
    """
    scope = f"{len(series.steps):,} training entries, {len(series.held_out):,} held-out entries"
    if len(series.steps) < _FEWEST:
        return CheckResult(check="run-figures", scope=scope, skipped="fewer than five training entries")
    found = [_negative(series), _never_added(series), _evaluation_is_training(series)]
    return CheckResult(check="run-figures", scope=scope, findings=tuple(one for one in found if one is not None))


def _negative(series: RunSeries) -> Finding | None:
    values = [value for _, value in (*series.losses(), *series.held_out_losses())]
    below = [value for value in values if value < 0]
    if len(below) < _FEWEST or len(below) < 0.5 * len(values):
        return None
    certain = series.facts.in_nats and len(below) == len(values)
    return from_page(
        "loss-negative",
        f"{len(below):,} of {len(values):,} losses, {min(below):.4g} at the lowest",
        severity="error" if certain else "warning",
    )


def _never_added(series: RunSeries) -> Finding | None:
    """Return the finding of a loss that equals one of its parts to the last digit, though other parts are not zero."""
    points = [point for point in series.steps if point.loss is not None and math.isfinite(point.loss)]
    names = list(dict.fromkeys(name for point in points for name in point.parts if "loss" in name.split("_")))
    whole = [name for name in names if _equal([(point.parts.get(name), point.loss) for point in points])]
    rest = [
        name
        for name in names
        if name not in whole
        and any(point.parts.get(name) for point in points)
        and not any(name in point.weights and not point.weights[name] for point in points)
    ]
    if len(whole) != 1 or not rest:
        return None
    return from_page(
        "term-without-effect",
        f"loss is {whole[0]} to the last digit at {len(points):,} entries",
        f"not in it: {', '.join(rest)}",
        case="not added",
    )


def _evaluation_is_training(series: RunSeries) -> Finding | None:
    training = dict(series.losses())
    pairs = [(training.get(step), value) for step, value in series.held_out_losses()]
    values = [value for _, value in pairs]
    if len(set(values)) < _FEWEST or not _equal(pairs) or max(map(significant_digits, values)) < _DIGITS:
        return None
    return from_page(
        "evaluation-is-training",
        f"{len(pairs):,} held-out losses, equal to the training loss of their step to the last digit",
    )


def _equal(pairs: Sequence[tuple[float | None, float | None]]) -> bool:
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    equal = sum(math.isclose(one, other, rel_tol=1e-9) for one, other in known)
    return len(known) >= _FEWEST and len(known) >= _NEARLY_ALL * len(pairs) and equal >= _NEARLY_ALL * len(known)
