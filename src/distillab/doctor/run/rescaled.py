"""Is the logged training loss a multiple of what it should be? Then the gradient is too."""

from __future__ import annotations

import math
import statistics

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.series import RunSeries
from distillab.doctor.run.trends import near_factor, trend
from distillab.records import Finding

_POINTS = 3
_STEADY = 0.12  # relative spread of a ratio that is the same all along
_MOVED = 0.2  # share by which the held-out loss must have changed, for a steady ratio to mean anything
_START_WITHIN = 0.04
_TERMS_WITHIN = 0.05
_AS_LARGE = 0.25  # |log ratio|


@check("run-rescaling")
def check_rescaling(series: RunSeries) -> Checked:
    """Compare the training loss with the held-out loss at the same steps, the sum of its terms, and log V.

    A held-out loss is never accumulated, so a training loss that is k times as large all along was summed over k
    microbatches (or processes) or divided by them once too often.
    """
    yield Scope(f"{len(series.losses()):,} training losses, {len(series.held_out_losses()):,} held-out losses")
    if not series.losses():
        raise Skipped("the log has no training loss")
    yield _terms(series) if series.term_names else _held_out(series) or _start(series)


def _terms(series: RunSeries) -> Finding | None:
    """Compare with the sum of the weighted terms: distillab's runs log the terms before they are weighted."""
    ratios = []
    for point in series.steps:
        expected = sum(point.weights.get(name, 0.0) * value for name, value in point.terms.items())
        if point.loss and 0 < point.loss < math.inf and point.weights and expected > 0:
            ratios.append(point.loss / expected)
    if len(ratios) < _POINTS:
        return None
    middle = statistics.median(ratios)
    if abs(middle - 1) < _TERMS_WITHIN or not _is_steady(ratios):
        return None
    return _finding(
        series,
        middle,
        "the sum of its weighted terms",
        f"{len(ratios):,} steps",
        certain=near_factor(middle) is not None,
    )


def _held_out(series: RunSeries) -> Finding | None:
    pairs = _beside(series)
    if len(pairs) < _POINTS:
        return None
    values = [value for _, value in pairs]
    ratios = [loss / value for loss, value in pairs]
    middle = statistics.median(ratios)
    factor = near_factor(middle)
    moved = max(values) - min(values) > _MOVED * max(values)
    if factor is None or not moved or not _is_steady(ratios):
        return None
    known = series.facts.accumulation
    return _finding(
        series,
        middle,
        "the held-out loss at the same steps",
        f"{len(ratios)} measurements",
        certain=known == abs(factor),
    )


def _beside(series: RunSeries) -> list[tuple[float, float]]:
    """Compare training and held-out loss at the same steps."""
    held_out, losses = series.held_out_losses(), series.losses()
    pairs = []
    for before, (step, value) in zip([0, *(s for s, _ in held_out)], held_out, strict=False):
        # the training losses nearest to the measurement: a mean over few steps just before it
        near = [loss for at, loss in losses if before < at <= step][-10:]
        if near and step > 0:
            pairs.append((statistics.median(near), value))
    # a loss below zero is a reward or a bound, and a ratio of two such means nothing
    return [(loss, value) for loss, value in pairs if loss > 0 and value > 0]


def _start(series: RunSeries) -> Finding | None:
    """Compare with log V, where a student with random weights begins."""
    uniform, losses = series.facts.uniform_nats, series.training_nats()
    if uniform is None or not series.facts.random_student or not losses:
        return None
    ratio = losses[0][1] / uniform
    factor = near_factor(ratio, within=_START_WITHIN)
    beside = _beside(series)
    # as large as a held-out loss, which is never accumulated: then it begins there, and is no multiple
    if beside and abs(statistics.median([math.log(loss) - math.log(value) for loss, value in beside])) < _AS_LARGE:
        return None
    known = series.facts.accumulation
    # accumulation and process counts are powers of two nearly always; other ratios are too easily met by chance
    if factor is None or losses[0][0] > 2 or (abs(factor) != known and abs(factor).bit_count() > 1):
        return None
    return _finding(
        series,
        ratio,
        f"log V = {uniform:.2f}, where a student with random weights begins",
        f"step {losses[0][0]}",
        certain=known == abs(factor),
    )


def _is_steady(ratios: list[float]) -> bool:
    middle = statistics.median(ratios)
    return statistics.median([abs(ratio - middle) for ratio in ratios]) < _STEADY / 2 * middle and (
        max(ratios) < (1 + 2.5 * _STEADY) * middle and min(ratios) > middle / (1 + 2.5 * _STEADY)
    )


def _finding(series: RunSeries, ratio: float, against: str, over: str, *, certain: bool) -> Finding:
    factor = f"{ratio:.2f} times" if ratio > 1 else f"one {1 / ratio:.2f}th of"
    first, last = series.losses()[0], series.losses()[-1]
    norms = [value for _, value in series.grad_norms()]
    known = series.facts.accumulation
    return from_page(
        "accumulation-rescales",
        f"the training loss is {factor} {against} ({over})",
        f"training loss {first[1]:.4g} at step {first[0]:,}, {last[1]:.4g} at step {last[0]:,}",
        f"microbatches an optimizer step, times processes: {known}" if known else None,
        f"gradient norm: {trend(norms).head:.4g} at the start" if len(norms) > 1 else None,
        severity="error" if certain else "warning",
    )
