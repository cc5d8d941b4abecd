"""Are the steps of a log one run, in order, to its end?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from distillab.doctor.page import from_page
from distillab.doctor.run.series import RunSeries, StepPoint
from distillab.records import CheckResult, Finding


def check_order(series: RunSeries) -> CheckResult:
    """Check for steps that occur twice or go back, and for a run that has not reached its last step.

    Args:
        series: in the order of the log.
    """
    scope = f"{len(series.steps):,} training entries, {len(series.held_out):,} held-out entries"
    if not series.steps and not series.held_out:
        return CheckResult(check="run-order", scope=scope, skipped="the log has no entries")
    found = [_out_of_order(series.steps), _unfinished(series)]
    return CheckResult(
        check="run-order", scope=scope, findings=tuple(finding for finding in found if finding is not None)
    )


def _out_of_order(points: Sequence[StepPoint]) -> Finding | None:
    back = [(a, b) for a, b in pairwise(points) if b.step <= a.step or _epoch_back(a, b)]
    if not back:
        return None
    distinct = len({point.step for point in points})
    again = [f"{b.where}: step {b.step} after step {a.step}{_epochs(a, b)}" for a, b in back[:3]]
    return from_page(
        "steps-out-of-order",
        f"{len(points):,} entries of {distinct:,} different steps; it goes back {len(back)} times",
        *again,
        "where a step occurs twice, the other checks use the later entry",
    )


def _epoch_back(a: StepPoint, b: StepPoint) -> bool:
    return a.epoch is not None and b.epoch is not None and b.epoch < a.epoch


def _epochs(a: StepPoint, b: StepPoint) -> str:
    return f", epoch {b.epoch:g} after {a.epoch:g}" if a.epoch is not None and b.epoch is not None else ""


def _unfinished(series: RunSeries) -> Finding | None:
    planned, last = series.facts.planned_steps, series.last_step
    logged = [point.step for point in series.steps]
    every = max((b - a for a, b in pairwise(logged)), default=1)
    # a trainer that logs every so many steps need not log the last one
    if planned is None or last + max(every, 1) > planned:
        return None
    return from_page("run-not-finished", f"last step in the log: {last:,} of {planned:,}")
