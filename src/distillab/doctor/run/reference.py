"""The training loss against log V, the unigram line and the entropy of the data; is it a multiple of them?"""

from __future__ import annotations

import math
import statistics

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.series import RunSeries, Trend, near_factor, trend
from distillab.records import Finding, begins_above_uniform

_FAR_AT_START = 0.3
_STUCK_WITHIN = 0.03
_ENOUGH_STEPS = 50
_FEWEST = 10
_TOO_GOOD_NATS = 0.05
_TOO_GOOD_SHARE = 0.015  # of log V, of a student that began with random weights
_MOVED = 0.01
_BELOW_FLOOR = 0.9
_POINTS = 3
_STEADY = 0.12  # relative spread of a ratio that is the same all along
_HELD_OUT_MOVED = 0.2  # share by which the held-out loss must have changed, for a steady ratio to mean anything
_START_WITHIN = 0.04
_TERMS_WITHIN = 0.05
_AS_LARGE = 0.25  # |log ratio|


@check("run-references")
def check_references(series: RunSeries) -> Checked:
    """Check where the loss begins, whether it ever leaves log V, and whether it is lower than the data allow."""
    training, held_out = series.training_nats(), series.held_out_losses()
    lines = _lines(series)
    yield Scope(f"{len(training):,} training cross-entropies, compared with {', '.join(lines) or 'no known reference'}")
    if not training and not (held_out and series.facts.held_out_is_cross_entropy):
        raise Skipped("the log has no cross-entropy in nats per token (for another trainer's log, give --vocabulary)")
    yield _start(series)
    yield _stuck(series) or _flat(series)
    yield _below_entropy(series)
    yield _too_good(series)


def _lines(series: RunSeries) -> list[str]:
    facts = series.facts
    known = (("log V", facts.uniform_nats), ("unigram", facts.unigram_nats), ("entropy", facts.entropy_nats))
    return [f"{name} {value:.3f}" for name, value in known if value is not None]


def _start(series: RunSeries) -> Finding | None:
    uniform, random = series.facts.uniform_nats, series.facts.random_student
    first = _first(series)
    # a factor of 2, 4, … belongs to the check of rescaling
    if uniform is None or random is None or first is None or check_rescaling(series).findings:
        return None
    step, value, what = first
    far_below = random and value / uniform - 1 < -_FAR_AT_START
    if not far_below and not begins_above_uniform(value, uniform, random=random):
        return None
    evidence = (
        f"{what} at step {step}: {value:.3f} nats per token",
        f"log V: {uniform:.3f}, so {value / uniform:.2f} times",
    )
    if random:
        return from_page("initial-loss-far-from-uniform", *evidence, case="random")
    return from_page("initial-loss-far-from-uniform", *evidence, case="pretrained")


def _first(series: RunSeries) -> tuple[int, float, str] | None:
    held_out, training = series.held_out_losses(), series.training_nats()
    if held_out and held_out[0][0] == 0 and series.facts.held_out_is_cross_entropy:
        return (*held_out[0], "held-out loss")
    if training and training[0][0] <= 1:
        return (*training[0], "training loss")
    return None


def _stuck(series: RunSeries) -> Finding | None:
    uniform, training = series.facts.uniform_nats, series.training_nats()
    if uniform is None or series.last_step < _ENOUGH_STEPS or len(training) < 5:
        return None
    ends = trend([value for _, value in training])
    held_out = [value for _, value in series.held_out_losses()] if series.facts.held_out_is_cross_entropy else []
    best_held_out = min(held_out, default=uniform)
    if ends.tail < (1 - _STUCK_WITHIN) * uniform or best_held_out < (1 - _STUCK_WITHIN) * uniform:
        return None
    near = abs(ends.tail / uniform - 1) <= _STUCK_WITHIN and abs(ends.head / uniform - 1) <= _STUCK_WITHIN
    # a slow fall that can be seen belongs to the check of the learning rate
    if not near or ends.fell(0.002) or not _had_its_rate(series):
        return None
    rates, norms = ([value for _, value in found] for found in (series.learning_rates(), series.grad_norms()))
    return from_page(
        "nothing-learned",
        f"training loss {ends.head:.3f} at the start, {ends.tail:.3f} at the end, log V {uniform:.3f}",
        f"steps: {series.last_step:,}",
        f"learning rate at most {max(rates):.3g}" if rates else None,
        f"gradient norm, median: {statistics.median(norms):.3g}" if norms else None,
    )


def _flat(series: RunSeries) -> Finding | None:
    """Return the finding of a loss that is flat above the lowest cross-entropy with a softmax taken twice."""
    uniform, training = series.facts.uniform_nats, series.training_nats()
    if uniform is None or len(training) < 2 * _FEWEST or not series.facts.random_student or not _had_its_rate(series):
        return None
    values = [value for _, value in training]
    late, ends = trend(values[len(values) // 2 :]), trend(values)
    # a probability of one in place of a logit, and zero elsewhere: log(V − 1 + e) − 1
    lowest = math.log(math.exp(uniform) - 1 + math.e) - 1
    if abs(ends.head - ends.tail) <= _MOVED * uniform:
        return None  # it has not moved at all: no bound was met
    unigram = series.facts.unigram_nats
    if late.fell(0.002) or late.rose():
        return None
    if not lowest <= ends.tail <= uniform or (unigram is not None and ends.tail <= unigram):
        return None
    return from_page(
        "loss-flat-near-uniform",
        f"training loss {ends.head:.3f} at the start, {late.head:.3f} in the middle, {ends.tail:.3f} at the end",
        f"log V {uniform:.3f}; a loss on probabilities in place of logits never gets below {lowest:.3f}",
        f"unigram {unigram:.3f}" if unigram is not None else None,
    )


def _had_its_rate(series: RunSeries) -> bool:
    """Return whether there are enough steps after the warm-up; False if the rate is always zero."""
    rates = series.learning_rates()
    if not rates:
        return True
    peak = max(value for _, value in rates)
    reached = next(step for step, value in rates if value >= peak / 2)
    return peak > 0 and series.last_step - reached >= _ENOUGH_STEPS


def _below_entropy(series: RunSeries) -> Finding | None:
    floor = series.facts.entropy_nats
    held_out = series.held_out_losses()
    if floor is None or not held_out or not series.facts.held_out_is_cross_entropy:
        return None
    step, best = min(held_out, key=lambda pair: pair[1])
    if best >= _BELOW_FLOOR * floor:
        return None
    return from_page(
        "loss-below-entropy",
        f"held-out loss {best:.3f} at step {step:,}",
        f"entropy of the data, as given: {floor:.3f}",
    )


def _too_good(series: RunSeries) -> Finding | None:
    training, held_out = series.training_nats(), series.held_out_losses()
    if len(training) < 5 or not series.facts.held_out_is_cross_entropy or len(held_out) < 2:
        return None
    ends: Trend = trend([value for _, value in training])
    facts = series.facts
    share = _TOO_GOOD_SHARE * facts.uniform_nats if facts.uniform_nats is not None and facts.random_student else 0.0
    if max(ends.tail, held_out[-1][1]) >= max(_TOO_GOOD_NATS, share):
        return None
    return from_page(
        "loss-too-good",
        f"training {ends.tail:.4f}, held-out {held_out[-1][1]:.4f} nats per token at the end",
        f"training began at {ends.head:.3f}",
    )


@check("run-rescaling")
def check_rescaling(series: RunSeries) -> Checked:
    """Compare the training loss with the held-out loss at the same steps, the sum of its terms, and log V.

    A held-out loss is never accumulated, so a training loss that is k times as large all along was summed over k
    microbatches (or processes) or divided by them once too often.
    """
    yield Scope(f"{len(series.losses()):,} training losses, {len(series.held_out_losses()):,} held-out losses")
    if not series.losses():
        raise Skipped("the log has no training loss")
    yield _terms(series) if series.term_names else _held_out(series) or _against_uniform(series)


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
    moved = max(values) - min(values) > _HELD_OUT_MOVED * max(values)
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


def _against_uniform(series: RunSeries) -> Finding | None:
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
