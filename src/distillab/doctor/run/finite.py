"""Are the entries of a log one run in order to its end, is every loss and gradient a number, every zero a real zero?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.series import RunSeries, StepPoint
from distillab.records import Finding

_REAL_LOSS = 0.1  # a loss above this does not become exactly zero in one step
_SCALER_SETTLES = 20  # steps in which float16 loss scaling may overflow while it looks for its scale
_RARE = 0.02


@check("run-finite")
def check_finite(series: RunSeries) -> Checked:
    """Check for NaN and infinity in losses and gradient norms, and for losses of exactly 0.0 (NaN in transformers)."""
    points = series.steps
    yield Scope(f"losses and gradient norms of {len(points):,} entries, {len(series.held_out):,} held-out losses")
    if not points and not series.held_out:
        raise Skipped("the log has no entries")
    shown_as_zero = [p for p in points if p.loss == 0 and p.grad_norm is not None and not math.isfinite(p.grad_norm)]
    yield _loss(series)
    yield _nan_as_zero(points, shown_as_zero)
    yield _zero([p for p in points if p.loss == 0 and p not in shown_as_zero], points)
    yield None if shown_as_zero else _gradient(points)


def _loss(series: RunSeries) -> Finding | None:
    figures = [(p.step, p.where, "loss", p.loss) for p in series.steps]
    figures += [(p.step, p.where, "held-out loss", p.loss) for p in series.held_out]
    figures += [(p.step, p.where, f"term {name}", value) for p in series.steps for name, value in p.terms.items()]
    bad = [
        (step, where, f"{what} {value}")
        for step, where, what, value in figures
        if value is not None and not math.isfinite(value)
    ]
    bad += [
        found for name in {name for p in series.steps for name in p.parts} for found in _of_part(series.steps, name)
    ]
    if not bad:
        return None
    step, where, what = min(bad, key=lambda item: item[0])
    return from_page(
        "loss-not-finite",
        f"first at step {step:,}: {what} ({where})",
        f"{len(bad):,} such values",
        example=_around(series.steps, step),
    )


def _of_part(points: Sequence[StepPoint], name: str) -> list[tuple[int, str, str]]:
    """Return the entries of a part that was a number and never is one again; NaN may also mean: not measured."""
    known = [(p, p.parts[name]) for p in points if name in p.parts]
    last = max((n for n, (_, value) in enumerate(known) if math.isfinite(value)), default=-1)
    lost = known[last + 1 :] if last >= 0 else []
    return [(p.step, p.where, f"{name} {value}") for p, value in lost] if len(lost) >= 2 else []


def _nan_as_zero(points: Sequence[StepPoint], bad: Sequence[StepPoint]) -> Finding | None:
    if not bad:
        return None
    return from_page(
        "nan-shown-as-zero",
        f"first at step {bad[0].step:,}: loss 0.0, grad_norm {bad[0].grad_norm} ({bad[0].where})",
        f"{len(bad):,} of {len(points):,} entries",
        example=_around(points, bad[0].step),
    )


def _zero(zeros: Sequence[StepPoint], points: Sequence[StepPoint]) -> Finding | None:
    if not zeros:
        return None
    first = points.index(zeros[0])
    before = [p.loss for p in points[:first] if p.loss]
    fell_at_once = bool(before) and before[-1] > _REAL_LOSS and math.isfinite(before[-1])
    to_the_end = len(zeros) >= 2 and all(p.loss == 0 for p in points[first:] if p.loss is not None)
    no_gradient = all(not p.grad_norm for p in zeros)
    certain = fell_at_once and to_the_end and no_gradient
    norms = {p.grad_norm for p in zeros}
    return from_page(
        "loss-exactly-zero",
        f"first at step {zeros[0].step:,} ({zeros[0].where}); {len(zeros):,} of {len(points):,} entries",
        f"the entry before: {before[-1]:g}" if before else None,
        f"gradient norm at these entries: {', '.join(map(str, list(norms)[:3]))}".replace("None", "not logged"),
        severity="error" if certain else "warning",
        example=_around(points, zeros[0].step),
    )


def _gradient(points: Sequence[StepPoint]) -> Finding | None:
    with_norm = [p for p in points if p.grad_norm is not None]
    bad = [p for p in with_norm if not math.isfinite(p.grad_norm or 0.0)]
    if not bad:
        return None
    half = with_norm[len(with_norm) // 2 :]
    at_the_end = len(with_norm) >= 4 and sum(p in bad for p in half) * 2 > len(half)
    settling = all(p.step <= _SCALER_SETTLES for p in bad) or len(bad) < _RARE * len(with_norm)
    return from_page(
        "gradient-not-finite",
        f"first at step {bad[0].step:,}: grad_norm {bad[0].grad_norm}, loss {bad[0].loss} ({bad[0].where})",
        f"{len(bad):,} of {len(with_norm):,} entries",
        severity="error" if at_the_end else "note" if settling else "warning",
        example=_around(points, bad[0].step),
    )


def _around(points: Sequence[StepPoint], step: int) -> tuple[str, ...]:
    place = next((n for n, point in enumerate(points) if point.step >= step), len(points))
    return tuple(
        f"step {p.step}: loss {p.loss}, grad_norm {p.grad_norm}" for p in points[max(0, place - 2) : place + 2]
    )


@check("run-order")
def check_order(series: RunSeries) -> Checked:
    """Check for steps that occur twice or go back, and for a run that has not reached its last step."""
    entries = f"{len(series.steps):,} training entries, {len(series.held_out):,} held-out entries"
    yield Scope("; ".join((f"{series.source}: {entries}", *series.notes)))
    if not series.steps and not series.held_out:
        raise Skipped("the log has no entries")
    yield _out_of_order(series.steps)
    yield _unfinished(series)


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
