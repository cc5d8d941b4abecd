"""Figures of a log that contradict each other: below zero, parts that are in no sum, an evaluation that is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.run.columns import significant_digits
from distillab.doctor.run.series import RunSeries
from distillab.records import CheckResult, Finding

_FEWEST = 5
_NEARLY_ALL = 0.95
_DIGITS = 4


def check_figures(series: RunSeries) -> CheckResult:
    """Losses below zero; a part that equals the whole beside other parts; held-out losses that are training losses.

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
    return Finding(
        id="loss-negative",
        severity="error" if certain else "warning",
        title="The logged losses are below zero.",
        evidence=(f"{len(below):,} of {len(values):,} losses, {min(below):.4g} at the lowest",),
        explanation="A cross-entropy and a divergence are never below zero: their sign was lost (a mean "
        "log-probability), or probabilities stand where log-probabilities belong, or something is subtracted. What "
        "falls may be rising. (Objectives of reinforcement learning may be negative, and are not judged here.)",
        fix=("log -log_probability.mean()", "`distillab doctor` can test the loss function itself: audit_loss"),
    )


def _never_added(series: RunSeries) -> Finding | None:
    """The whole is one of its parts, to the last digit, though other parts are not zero."""
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
    return Finding(
        id="term-without-effect",
        severity="warning",
        title="Parts of the loss are logged and never added to it.",
        evidence=(
            f"loss is {whole[0]} to the last digit at {len(points):,} entries",
            f"not in it: {', '.join(rest)}",
        ),
        explanation="The student is trained by one part alone. What this run shows about the others is that of a run "
        "without them. (Where they are only watched, nothing is wrong.)",
        fix=("print the sum that backward() is called on, and compare it with the sum of the weighted parts",),
    )


def _evaluation_is_training(series: RunSeries) -> Finding | None:
    training = dict(series.losses())
    pairs = [(training.get(step), value) for step, value in series.held_out_losses()]
    values = [value for _, value in pairs]
    if len(set(values)) < _FEWEST or not _equal(pairs) or max(map(significant_digits, values)) < _DIGITS:
        return None
    return Finding(
        id="evaluation-is-training",
        severity="error",
        title="The held-out losses are the training losses of the same steps.",
        evidence=(f"{len(pairs):,} held-out losses, equal to the training loss of their step to the last digit",),
        explanation="Nothing was held out: the training batch is evaluated, or its loss is logged under a second name. "
        "Learning rows by heart looks like success, and the best checkpoint is chosen by chance.",
        fix=("evaluate on rows that are not trained on, in a pass of their own: model.eval(), torch.no_grad()",),
    )


def _equal(pairs: Sequence[tuple[float | None, float | None]]) -> bool:
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    equal = sum(math.isclose(one, other, rel_tol=1e-9) for one, other in known)
    return len(known) >= _FEWEST and len(known) >= _NEARLY_ALL * len(pairs) and equal >= _NEARLY_ALL * len(known)
