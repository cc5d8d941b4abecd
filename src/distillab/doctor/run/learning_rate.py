"""Is the learning rate too high or too low for the curve that was seen, and do gradients explode or vanish?"""

from __future__ import annotations

import statistics

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.series import RunSeries, noise, slope, spikes, trend
from distillab.records import Finding

_FEWEST = 20
_ABOVE_START = 0.1
_ABOVE_BEST = 0.25
_RISEN = 0.05
_LOST = 0.25  # of what had been learned
_NORM_GROWN = 5.0
_NORM_GROWN_SINCE = 1.3
_THROWN = 2.0  # times the best: nothing but thrown weights
_THROWN_AT_START = 1.25
_FEWEST_THROWN = 5
_SPIKE = 2.0
_FEWEST_SPIKES = 2
# lower jumps that come again and again count too: one batch in so many is broken
_LOW_SPIKE = 1.4
_FEWEST_LOW_SPIKES = 4
_LITTLE = 0.1
_NOT_SLOWING = 0.7
_FEWEST_NORMS = 5
_GROWN = 20.0
_LONE = 100.0
_MOSTLY = 0.9


@check("run-learning-rate")
def check_learning_rate(series: RunSeries) -> Checked:
    """Check for divergence, spikes, and a loss that falls slowly on a straight line."""
    losses = series.losses()
    yield Scope(f"{len(losses):,} training losses, {len(series.learning_rates()):,} learning rates")
    if len(losses) < _FEWEST:
        raise Skipped(f"fewer than {_FEWEST} training losses")
    yield _diverges(series) or _thrown_at_the_start(series)
    yield _spikes(series)
    yield _too_low(series)


def _diverges(series: RunSeries) -> Finding | None:
    losses = series.losses()
    values = [value for _, value in losses]
    ends = trend(values)
    window = max(1, len(values) // 10)
    smooth = [statistics.median(values[at : at + window]) for at in range(0, len(values) - window + 1, window)]
    best = min(range(len(smooth)), key=lambda place: smooth[place])
    high = max(smooth[best:])
    off = max(high - smooth[best] if high > _THROWN * smooth[best] > 0 else 0.0, ends.tail - smooth[best])
    rise = ends.tail - smooth[best]
    far = rise > _ABOVE_BEST * abs(smooth[best]) and off > 4 * ends.error
    # a smaller rise counts where something else shows the same
    less = rise > max(_RISEN * abs(smooth[best]), 4 * ends.error) and _worse_elsewhere(series, losses[best * window][0])
    if not (far or less) or best == len(smooth) - 1 or _weights_rise(series):
        return None
    above_start = ends.tail > ends.head * (1 + _ABOVE_START)
    if not above_start and rise < (_LOST if less else 0.5) * (ends.head - smooth[best]):
        return None
    if _goes_down_in_its_terms(series):
        return None
    rates = series.learning_rates()
    at = losses[best * window][0]
    peak = max(rates, key=lambda pair: pair[1]) if rates else None
    worse_than_nothing = _above_uniform(series)
    return from_page(
        "loss-diverges",
        f"{ends.head:.4g} at the start, {smooth[best]:.4g} near step {at:,}, {ends.tail:.4g} at the end",
        f"learning rate at most {peak[1]:.3g}, first at step {peak[0]:,}" if peak else None,
        f"log V, a uniform guess: {series.facts.uniform_nats:.3f}" if worse_than_nothing else None,
        case="later",
        severity="error" if worse_than_nothing else "warning",
        example=_curve(series),
    )


def _worse_elsewhere(series: RunSeries, best_step: int) -> bool:
    """Return whether the held-out loss rose too since the best step, or the gradient norm grows without end."""
    held_out = series.held_out_losses()
    if len(held_out) >= 3:
        at, best = min(held_out, key=lambda pair: pair[1])
        after = [value for step, value in held_out if step > at]
        return len(after) >= 2 and min(after[-2:]) > best * (1 + _RISEN)
    norms = series.grad_norms()
    since = [value for step, value in norms if step >= best_step]
    if len(norms) < _FEWEST or len(since) < _FEWEST:
        return False
    whole, late = trend([value for _, value in norms]), trend(since)
    return whole.tail > _NORM_GROWN * whole.head and late.tail > _NORM_GROWN_SINCE * late.head and late.rose()


def _thrown_at_the_start(series: RunSeries) -> Finding | None:
    """Return the finding of a loss far above its first value for a tenth of the run, even if it comes back."""
    losses = series.losses()
    values = [value for _, value in losses]
    window = max(_FEWEST_THROWN, len(values) // 10)
    first, early = values[0], values[1 : 1 + window]
    high = statistics.median(early)
    if (
        first <= 0
        or high <= _THROWN_AT_START * first
        or losses[0][0] > 2
        or len(early) < window
        or _weights_rise(series)
    ):
        return None
    rates = [value for _, value in series.learning_rates()]
    return from_page(
        "loss-diverges",
        f"{first:.4g} at the first step; median of the {window:,} steps after it: {high:.4g}, at most "
        f"{max(early):.4g}; {values[-1]:.4g} at the last step",
        f"learning rate at most {max(rates):.3g}" if rates else None,
        case="early",
        example=_curve(series),
    )


def _above_uniform(series: RunSeries) -> bool:
    uniform, training = series.facts.uniform_nats, series.training_nats()
    return uniform is not None and len(training) > 2 and trend([v for _, v in training]).tail > 1.02 * uniform


def _weights_rise(series: RunSeries) -> bool:
    """Return whether the objective at the end is another one than at the start, so that its value may rise."""
    weighted = [point.weights for point in series.steps if point.weights]
    return bool(weighted) and any(
        weighted[-1].get(name, 0.0) > 1.05 * weighted[0].get(name, 0.0) for name in weighted[-1]
    )


def _goes_down_in_its_terms(series: RunSeries) -> bool:
    """Return whether every term ends lower than it began: then only the weights raised the sum."""
    by_term = [[p.terms[name] for p in series.steps if name in p.terms] for name in series.term_names]
    return bool(by_term) and all(len(values) > 2 and trend(values).fell() for values in by_term)


def _spikes(series: RunSeries) -> Finding | None:
    losses = series.losses()
    values = [value for _, value in losses]
    found = spikes(values, factor=_SPIKE)
    norms = dict(series.grad_norms())
    if norms:
        usual = statistics.median(norms.values())
        # without a large gradient it is a hard batch and no thrown weight
        found = [place for place in found if norms.get(losses[place][0], 0.0) > 3 * usual]
    factor = _SPIKE
    if len(found) < _FEWEST_SPIKES:
        factor, found = _LOW_SPIKE, spikes(values, factor=_LOW_SPIKE)
        if len(found) < _FEWEST_LOW_SPIKES:
            return None
    worst = max(found, key=lambda place: values[place])
    return from_page(
        "loss-spikes",
        f"{len(found)} spikes above {factor:g} times the neighbours; first at step {losses[found[0]][0]:,}",
        f"the largest: {values[worst]:.4g} at step {losses[worst][0]:,}",
        example=tuple(
            f"step {losses[place][0]}: loss {values[place]:.4g}"
            for place in range(max(0, worst - 2), min(len(values), worst + 3))
        ),
    )


def _too_low(series: RunSeries) -> Finding | None:
    losses, norms = series.losses(), [value for _, value in series.grad_norms()]
    steps, values = [step for step, _ in losses], [value for _, value in losses]
    ends = trend(values)
    if not 0 < ends.head - ends.tail < _LITTLE * ends.head or not ends.fell(0.002):
        return None
    half = len(values) // 2
    first, _ = slope(steps[:half], values[:half])
    second, error = slope(steps[half:], values[half:])
    rate, whole_error = slope(steps, values)
    straight = second < 0 and second < _NOT_SLOWING * first + 2 * error and rate < -6 * whole_error
    noisy = noise(values) > ends.head - ends.tail
    steady = len(norms) < _FEWEST or 0.5 < trend(norms).tail / max(trend(norms).head, 1e-30) < 2
    if not straight or noisy or not steady:
        return None
    unigram = series.facts.unigram_nats if series.training_nats() else None
    if unigram is not None and ends.tail < unigram:
        return None  # below the line that is easy to reach, slow is normal
    goal, name = (ends.tail / 2, "half of it") if unigram is None else (unigram, "the unigram line")
    rates = [value for _, value in series.learning_rates()]
    return from_page(
        "learning-rate-too-low",
        f"training loss {ends.head:.4g} at the start, {ends.tail:.4g} after {steps[-1] - steps[0]:,} steps",
        f"{-rate * 1000:.3g} in 1,000 steps, not slowing: {goal:.4g} ({name}) would take "
        f"{(ends.tail - goal) / -rate:,.0f} more steps",
        f"learning rate at most {max(rates):.3g}" if rates else None,
        f"gradient norm {trend(norms).head:.3g} at the start, {trend(norms).tail:.3g} at the end" if norms else None,
    )


def _curve(series: RunSeries) -> tuple[str, ...]:
    losses = series.losses()
    chosen = [losses[round(n * (len(losses) - 1) / 7)] for n in range(8)]
    return tuple(f"step {step}: loss {value:.4g}" for step, value in chosen)


@check("run-gradients")
def check_gradients(series: RunSeries) -> Checked:
    """Check for norms that grow to many times what they were, and norms of exactly zero."""
    norms = series.grad_norms()
    yield Scope(f"{len(norms):,} gradient norms")
    if len(norms) < _FEWEST_NORMS:
        raise Skipped("fewer than five gradient norms are logged")
    yield _zero_norms(series) or _explodes(series)


def _zero_norms(series: RunSeries) -> Finding | None:
    points = [p for p in series.steps if p.grad_norm is not None]
    # a zero beside a zero loss is a step without scored tokens, which another check reports
    zeros = [p for p in points if p.grad_norm == 0 and p.loss != 0]
    if len(zeros) < _MOSTLY * len(points):
        return None
    losses = [value for _, value in series.losses()]
    ends = trend(losses) if len(losses) >= _FEWEST_NORMS else None
    still = ends is not None and not ends.fell(0.02)
    return from_page(
        "gradient-zero",
        f"grad_norm 0 at {len(zeros):,} of {len(points):,} entries, the first at step {zeros[0].step:,}",
        f"training loss {ends.head:.4g} at the start, {ends.tail:.4g} at the end" if ends else None,
        case="loss still" if still else "loss falls",
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
    return len(losses) >= _FEWEST_NORMS and trend(losses).fell(0.5)
