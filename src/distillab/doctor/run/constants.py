"""Columns of a log that have one value from the first entry to the last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.run.columns import significant_digits
from distillab.doctor.run.series import RunSeries
from distillab.records import CheckResult, Finding, Severity

_FEWEST = 5
_CERTAIN_DIGITS = 4
# of models that balance experts; a model without them logs 0
_BALANCE = frozenset(("aux", "auxiliary", "router", "balance", "balancing", "z"))


def check_constants(series: RunSeries) -> CheckResult:
    """Training losses, parts of them and gradient norms that never change. A constant learning rate is a schedule.

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
    """What a term or part of the loss with one value is told as."""
    return Finding(
        id="term-never-changes",
        severity=severity,
        title="A term of the loss has the same value at every step.",
        evidence=(f"{name}: {values[0]:.6g} at all {len(values):,} steps, though batches and weights change",),
        explanation="The term does not depend on the student or on the batch: it is a constant, and has no gradient. "
        + ("At zero it compares a model with itself." if values[0] == 0 else ""),
        fix=(
            "check that the term reads the student's output of this batch, and that the teacher is another model",
            "`distillab doctor` can test the loss function itself: audit_loss",
        ),
    )


def one_value(values: Sequence[float]) -> bool:
    """Whether there are enough finite values, all equal to six digits."""
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
    return Finding(
        id="loss-never-changes",
        severity="error" if certain else "warning",
        title="The training loss is the same at every entry.",
        evidence=(f"{values[0]!r} at all {len(values):,} entries, from step {series.steps[0].step:,} on",),
        explanation="Batches differ, so that even a model that learns nothing has another loss at every step. What is "
        "logged is not the loss of these batches: the same batch is read again and again without learning, a constant "
        "is logged, or the loss does not depend on the model.",
        fix=(
            "print the loss of two batches before any training: they must differ",
            "`distillab doctor` can test the loss function itself: audit_loss",
        ),
    )


def _norm(series: RunSeries) -> Finding | None:
    values = [value for _, value in series.grad_norms()]
    if not one_value(values) or values[0] == 0:
        return None
    clipped = significant_digits(round(values[0], 4)) <= 1
    return Finding(
        id="gradient-norm-never-changes",
        severity="note" if clipped else "warning",
        title="The gradient norm is the same at every entry.",
        evidence=(f"{values[0]:.6g} at all {len(values):,} entries",),
        explanation="It was measured after clipping, which makes every larger gradient as long as the limit: whether "
        "gradients explode cannot be seen, and every step is clipped."
        if clipped
        else "Gradients of different batches are never equally long. What is logged is an old value, or that of "
        "another model.",
        fix=("log what torch.nn.utils.clip_grad_norm_ returns: the norm before clipping",),
    )


def _evaluation(series: RunSeries) -> Finding | None:
    """Another held-out figure stands still while the held-out loss moves."""
    losses = [point.loss for point in series.held_out if point.loss is not None]
    values = [point.accuracy for point in series.held_out if point.accuracy is not None]
    if len(set(losses)) < 3 or len(values) < _FEWEST or not one_value(values) or values[0] in (0.0, 1.0):
        return None
    return Finding(
        id="evaluation-never-changes",
        severity="warning",
        title="The held-out token accuracy is the same at every measurement, though the held-out loss moves.",
        evidence=(
            f"{values[0]!r} at all {len(values):,} measurements; held-out loss {losses[0]:.4g} to {losses[-1]:.4g}",
        ),
        explanation="The accuracy does not see what the loss sees: it is cached, or counted on other rows or by "
        "another model.",
        fix=("count the accuracy in the same pass as the held-out loss",),
    )
