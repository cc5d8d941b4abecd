"""Figures of a log that contradict each other, columns that never change, and the terms of a loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.rows import significant_digits
from distillab.doctor.run.series import CROSS_ENTROPY, RunSeries, trend
from distillab.records import Finding, Severity

_FEWEST = 5
_NEARLY_ALL = 0.95

_CERTAIN_DIGITS = 4
# of models that balance experts; a model without them logs 0
_BALANCE = frozenset(("aux", "auxiliary", "router", "balance", "balancing", "z"))
_NO_SHARE = 0.01
_FIGHT = -0.2
_APART = 0.1
_FEWEST_LATE = 10


@check("run-figures")
def check_figures(series: RunSeries) -> Checked:
    """Check for losses below zero, a part that equals the whole, and held-out losses that are training losses."""
    yield Scope(f"{len(series.steps):,} training entries, {len(series.held_out):,} held-out entries")
    if len(series.steps) < _FEWEST:
        raise Skipped("fewer than five training entries")
    yield _negative(series)
    yield _never_added(series)
    yield _evaluation_is_training(series)


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
    if len(set(values)) < _FEWEST or not _equal(pairs) or max(map(significant_digits, values)) < _CERTAIN_DIGITS:
        return None
    return from_page(
        "evaluation-is-training",
        f"{len(pairs):,} held-out losses, equal to the training loss of their step to the last digit",
    )


def _equal(pairs: Sequence[tuple[float | None, float | None]]) -> bool:
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    equal = sum(math.isclose(one, other, rel_tol=1e-9) for one, other in known)
    return len(known) >= _FEWEST and len(known) >= _NEARLY_ALL * len(pairs) and equal >= _NEARLY_ALL * len(known)


@check("run-columns")
def check_constants(series: RunSeries) -> Checked:
    """Check for losses, parts of them and gradient norms that never change. A constant learning rate is a schedule."""
    names = list(dict.fromkeys(name for point in series.steps for name in point.parts))
    yield Scope(f"{len(series.steps):,} training entries; parts of the loss: {', '.join(names) or 'none'}")
    if len(series.steps) < _FEWEST:
        raise Skipped("fewer than five training entries")
    yield _loss(series)
    yield _norm(series)
    yield from (_part(series, name) for name in names)
    yield _evaluation(series)


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


@check("run-terms")
def check_terms(series: RunSeries) -> Checked:
    """Check for terms without positions, or a share of the gradient, that never change, or that fight each other."""
    names = series.term_names
    measured = sum(bool(point.shares) for point in series.steps)
    yield Scope(f"{len(names)} terms ({', '.join(names) or 'none logged'}); gradient shares at {measured} steps")
    if not names and not any(point.cosines for point in series.steps):
        raise Skipped("the log does not list the terms of the loss")
    for name in names:
        values = [point.terms[name] for point in series.steps if name in point.terms]
        constant = never_changes(name, values, "error") if one_value(values) else None
        yield _without_positions(series, name) or constant or _without_effect(series, name)
    yield _cosines(series) or _apart(series)


def _without_positions(series: RunSeries, name: str) -> Finding | None:
    counts = [point.counts[name] for point in series.steps if name in point.counts]
    if not counts or any(counts):
        return None
    return from_page("term-without-positions", f"{name}: count 0 at all {len(counts):,} steps")


def _without_effect(series: RunSeries, name: str) -> Finding | None:
    shares = [(point.step, point.shares[name]) for point in series.steps if name in point.shares]
    weights = [point.weights[name] for point in series.steps if name in point.weights]
    if weights and not any(weights):
        evidence: tuple[str, ...] = (f"{name}: weight 0 at all {len(weights):,} steps",)
    elif len(shares) >= 3 and max(share for _, share in shares) < _NO_SHARE:
        others = {
            other: statistics.median(p.shares[other] for p in series.steps if other in p.shares)
            for other in series.term_names
            if other != name
        }
        evidence = (
            f"{name}: at most {max(share for _, share in shares):.2%} of the gradient's norm at {len(shares)} "
            "measured steps",
            *(f"{other}: median {value:.1%}" for other, value in others.items()),
            *((f"its weight: {weights[0]:g}",) if weights else ()),
        )
    else:
        return None
    kind = "The labels have" if name == CROSS_ENTROPY else "A term of the loss has"
    return from_page("term-without-effect", *evidence, case="small gradient", words={"kind": kind})


def _cosines(series: RunSeries) -> Finding | None:
    pairs: dict[str, list[float]] = {}
    for point in series.steps:
        for pair, value in point.cosines.items():
            pairs.setdefault(pair, []).append(value)
    worst = min(((statistics.median(values), pair) for pair, values in pairs.items()), default=None)
    if worst is None or worst[0] > _FIGHT:
        return None
    median, pair = worst
    values = pairs[pair]
    return from_page(
        "terms-fight",
        f"{pair}: cosine between the gradients {median:.2f} (median of {len(values)})",
        f"below zero in {sum(value < 0 for value in values) / len(values):.0%} of the measurements",
    )


def _apart(series: RunSeries) -> Finding | None:
    """Return the finding without logged cosines: one term falls over the last two thirds while another rises."""
    ends = {}
    for name in series.term_names:
        values = [point.terms[name] for point in series.steps if name in point.terms and point.weights.get(name, 1.0)]
        if len(values) >= 3 * _FEWEST_LATE and min(values) >= 0:
            ends[name] = trend(values[len(values) // 3 :])
    falling = [name for name, end in ends.items() if end.fell(_APART)]
    rising = [name for name, end in ends.items() if end.rose(_APART)]
    if not falling or not rising:
        return None
    return from_page(
        "terms-fight",
        *(
            f"{name}: {ends[name].head:.4g} after a third of the run, {ends[name].tail:.4g} at its end"
            for name in (*rising, *falling)
        ),
    )
