"""The terms of a loss: does each of them reach the student, and do they pull one way?"""

from __future__ import annotations

import statistics

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.figures import never_changes, one_value
from distillab.doctor.run.series import CROSS_ENTROPY, RunSeries
from distillab.doctor.run.trends import trend
from distillab.records import Finding

_NO_SHARE = 0.01
_FIGHT = -0.2
_APART = 0.1
_FEWEST = 10


@check("run-terms")
def check_terms(series: RunSeries) -> Checked:
    """Check for terms without positions, or a share of the gradient, that never change, or that fight each other."""
    names = series.term_names
    measured = sum(bool(point.shares) for point in series.steps)
    yield Scope(f"{len(names)} terms ({', '.join(names) or 'none logged'}); gradient shares at {measured} steps")
    if not names and not any(point.cosines for point in series.steps):
        raise Skipped("the log does not list the terms of the loss")
    for name in names:
        yield _without_positions(series, name) or _never_changes(series, name) or _without_effect(series, name)
    yield _cosines(series) or _apart(series)


def _without_positions(series: RunSeries, name: str) -> Finding | None:
    counts = [point.counts[name] for point in series.steps if name in point.counts]
    if not counts or any(counts):
        return None
    return from_page("term-without-positions", f"{name}: count 0 at all {len(counts):,} steps")


def _never_changes(series: RunSeries, name: str) -> Finding | None:
    values = [point.terms[name] for point in series.steps if name in point.terms]
    return never_changes(name, values, "error") if one_value(values) else None


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
        if len(values) >= 3 * _FEWEST and min(values) >= 0:
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
