"""Columns of a log that have one value from the first entry to the last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.page import from_page
from distillab.doctor.run.columns import significant_digits
from distillab.doctor.run.series import RunSeries
from distillab.records import CheckResult, Finding, Severity

_FEWEST = 5
_CERTAIN_DIGITS = 4
# of models that balance experts; a model without them logs 0
_BALANCE = frozenset(("aux", "auxiliary", "router", "balance", "balancing", "z"))


def check_constants(series: RunSeries) -> CheckResult:
    """Check for losses, parts of them and gradient norms that never change. A constant learning rate is a schedule.

    Args:
        series: in order.
    """
    names = list(dict.fromkeys(name for point in series.steps for name in point.parts))
    scope = f"{len(series.steps):,} training entries; parts of the loss: {', '.join(names) or 'none'}"
    if len(series.steps) < _FEWEST:
        return CheckResult(check="run-columns", scope=scope, skipped="fewer than five training entries")
    found = [_loss(series), _norm(series), *(_part(series, name) for name in names), _evaluation(series)]
    return CheckResult(check="run-columns", scope=scope, findings=tuple(one for one in found if one is not None))


def never_changes(name: str, values: Sequence[float], severity: Severity) -> Finding:
    """Return the finding of a term or part of the loss with one value."""
    return from_page(
        "term-never-changes",
        f"{name}: {values[0]:.6g} at all {len(values):,} steps, though batches and weights change",
        case="zero" if values[0] == 0 else "constant",
        severity=severity,
    )


def one_value(values: Sequence[float]) -> bool:
    """Return whether there are enough finite values, all equal to six digits."""
    finite = len(values) >= _FEWEST and all(math.isfinite(value) for value in values)
    return finite and len({f"{value:.6g}" for value in values}) == 1


def _part(series: RunSeries, name: str) -> Finding | None:
    values = [point.parts[name] for point in series.steps if name in point.parts]
    weights = [point.weights[name] for point in series.steps if name in point.weights]
    if not one_value(values) or (weights and not any(weights)):
        return None
    if values[0] == 0:
        # a part that is switched off may be logged as 0
        return None if set(name.split("_")) & _BALANCE else never_changes(name, values, "warning")
    return never_changes(name, values, "error" if significant_digits(values[0]) >= _CERTAIN_DIGITS else "warning")


def _loss(series: RunSeries) -> Finding | None:
    # losses of exactly 0 are another check's
    values = [point.loss for point in series.steps if point.loss is not None]
    if not one_value(values) or values[0] == 0:
        return None
    certain = min(series.facts.significant_digits, significant_digits(values[0])) >= _CERTAIN_DIGITS
    return from_page(
        "loss-never-changes",
        f"{values[0]!r} at all {len(values):,} entries, from step {series.steps[0].step:,} on",
        severity="error" if certain else "warning",
    )


def _norm(series: RunSeries) -> Finding | None:
    values = [value for _, value in series.grad_norms()]
    if not one_value(values) or values[0] == 0:
        return None
    clipped = significant_digits(round(values[0], 4)) <= 1
    return from_page(
        "gradient-norm-never-changes",
        f"{values[0]:.6g} at all {len(values):,} entries",
        case="clipped" if clipped else "constant",
        severity="note" if clipped else "warning",
    )


def _evaluation(series: RunSeries) -> Finding | None:
    """Return the finding of another held-out figure that never changes while the held-out loss does."""
    losses = [point.loss for point in series.held_out if point.loss is not None]
    values = [point.accuracy for point in series.held_out if point.accuracy is not None]
    if len(set(losses)) < 3 or len(values) < _FEWEST or not one_value(values) or values[0] in (0.0, 1.0):
        return None
    return from_page(
        "evaluation-never-changes",
        f"{values[0]!r} at all {len(values):,} measurements; held-out loss {losses[0]:.4g} to {losses[-1]:.4g}",
        case="accuracy",
    )
