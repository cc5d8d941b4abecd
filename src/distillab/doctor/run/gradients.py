"""Gradient norms: exploding, or exactly zero."""

from __future__ import annotations

import statistics

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.series import RunSeries
from distillab.doctor.run.trends import trend
from distillab.records import Finding

_FEWEST = 5
_GROWN = 20.0
_LONE = 100.0
_MOSTLY = 0.9


@check("run-gradients")
def check_gradients(series: RunSeries) -> Checked:
    """Check for norms that grow to many times what they were, and norms of exactly zero."""
    norms = series.grad_norms()
    yield Scope(f"{len(norms):,} gradient norms")
    if len(norms) < _FEWEST:
        raise Skipped("fewer than five gradient norms are logged")
    yield _zero(series) or _explodes(series)


def _zero(series: RunSeries) -> Finding | None:
    points = [p for p in series.steps if p.grad_norm is not None]
    # a zero beside a zero loss is a step without scored tokens, which another check reports
    zeros = [p for p in points if p.grad_norm == 0 and p.loss != 0]
    if len(zeros) < _MOSTLY * len(points):
        return None
    losses = [value for _, value in series.losses()]
    ends = trend(losses) if len(losses) >= _FEWEST else None
    still = ends is not None and not ends.fell(0.02)
    return from_page(
        "gradient-zero",
        f"grad_norm 0 at {len(zeros):,} of {len(points):,} entries, the first at step {zeros[0].step:,}",
        f"training loss {ends.head:.4g} at the start, {ends.tail:.4g} at the end" if ends else None,
        case="loss still" if still else "loss falls",
        severity="error" if still else "warning",
    )


def _explodes(series: RunSeries) -> Finding | None:
    norms = series.grad_norms()
    values = [value for _, value in norms]
    rest = values[len(values) // 10 :]
    usual = statistics.median(rest)
    if usual <= 0:
        return None
    ends = trend(rest)
    largest = max(range(len(values) // 10, len(values)), key=lambda place: values[place])
    grown = ends.tail > _GROWN * max(ends.head, 1e-30) and not _much_lower(series)
    # large gradients at the start, which then fall, are how hidden states and maps begin
    lone = [place for place in range(len(values) // 3, len(values)) if values[place] > _LONE * usual]
    if not grown and not lone:
        return None
    return from_page(
        "gradient-explodes",
        f"median {usual:.3g}; {ends.head:.3g} early, {ends.tail:.3g} at the end",
        f"largest {values[largest]:.3g} at step {norms[largest][0]:,}",
        f"{len(lone)} steps above {_LONE:.0f} times the median" if lone else None,
        case="growth" if grown else "spikes",
    )


def _much_lower(series: RunSeries) -> bool:
    """Return whether the loss fell by half or more: a norm that grows as the loss gets small is normal at the end."""
    losses = [value for _, value in series.losses()]
    return len(losses) >= _FEWEST and trend(losses).fell(0.5)
