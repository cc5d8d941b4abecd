"""The learning rate over the steps, and whether run and study were long and large enough to show anything."""

from __future__ import annotations

import statistics
from itertools import pairwise

from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.run.series import RunSeries, slope, trend
from distillab.records import Finding, Interval, StudyResults
from distillab.terminal import plural

_FEWEST = 10
_SAME = 0.02
_HIGH_AT_THE_END = 0.3
_RESTART = 1.5
_STILL_FALLING = 0.7
_GONE = 0.0099  # of the highest rate; two steps of a tenth are not yet gone
_LARGE = 0.3
_MOST = 0.5
_STILL = 0.01
_UNFINISHED = 0.05  # of the whole fall, made after the rate was no longer large
_NEAR_UNIFORM = 0.75
_NEAR_ENTROPY = 1.1
_FEWEST_HELD_OUT = 5
_STILL_FALLS = 0.05
_PART = 0.2  # of the run: the extrapolated steps


@check("run-schedule")
def check_schedule(series: RunSeries) -> Checked:
    """Check for a learning rate of zero, or one that only warms up, never decays, restarts, or ends too early."""
    rates = series.learning_rates()
    yield Scope(f"{len(rates):,} learning rates")
    if len(rates) < 3:
        raise Skipped("fewer than three learning rates are logged")
    if max(value for _, value in rates) <= 0:
        yield _zero(series)
    elif len(rates) < _FEWEST:
        raise Skipped("too few learning rates to recognise a schedule")
    else:
        found = _only_warms_up(series) or _restarts(rates) or _never_decays(rates) or _decays_too_early(series)
        yield found or _cut_short(series)


def _zero(series: RunSeries) -> Finding:
    losses = [value for _, value in series.losses()]
    moves = len(losses) >= 3 and trend(losses).fell()
    return from_page(
        "learning-rate-zero",
        f"{len(series.learning_rates()):,} entries, all 0",
        f"training loss {trend(losses).head:.4g} at the start, {trend(losses).tail:.4g} at the end"
        if len(losses) > 1
        else None,
        case="loss moves" if moves else "loss still",
    )


def _only_warms_up(series: RunSeries) -> Finding | None:
    rates = series.learning_rates()
    values = [value for _, value in rates]
    if values[-1] < max(values) or values[-1] <= values[0] * 1.2 or any(b < a for a, b in pairwise(values)):
        return None
    # warmed up and then held: that is a constant rate
    reached = next(step for step, value in rates if value >= (1 - _SAME) * values[-1])
    if reached < rates[0][0] + 0.8 * (rates[-1][0] - rates[0][0]):
        return None
    planned = series.facts.planned_steps
    unfinished = planned is not None and rates[-1][0] < 0.5 * planned
    return from_page(
        "schedule-only-warms-up",
        f"{values[0]:.3g} at step {rates[0][0]:,}, {values[-1]:.3g} at step {rates[-1][0]:,}, the highest",
        severity="note" if unfinished else "warning",
    )


def _restarts(rates: tuple[tuple[int, float], ...]) -> Finding | None:
    peak = max(value for _, value in rates)
    first_peak = next(place for place, (_, value) in enumerate(rates) if value >= (1 - _SAME) * peak)
    rises = []
    low, rising = peak, False
    for (_, before), (step, value) in pairwise(rates[first_peak:]):
        if value <= before:
            # a rise is counted once, however many entries it takes
            low, rising = (value if rising else min(low, value)), False
        elif not rising and value > _RESTART * low + 0.05 * peak:
            rises.append((step, low, value))
            rising = True
    if not rises:
        return None
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(rises)]
    regular = len(rises) >= 2 and max(gaps) <= 3 * min(gaps)
    step, before, value = rises[0]
    return from_page(
        "schedule-restarts",
        f"{len(rises)} rises; the first at step {step:,}: from {before:.3g} to {value:.3g}; peak {peak:.3g}",
        case="regular" if regular else "once",
    )


def _never_decays(rates: tuple[tuple[int, float], ...]) -> Finding | None:
    peak = max(value for _, value in rates)
    reached = next(place for place, (_, value) in enumerate(rates) if value >= (1 - _SAME) * peak)
    rest = [value for _, value in rates[reached:]]
    if reached > len(rates) // 2 or min(rest) < (1 - _SAME) * peak:
        return None
    return from_page("schedule-never-decays", f"{peak:.3g} from step {rates[reached][0]:,} to {rates[-1][0]:,}")


def _decays_too_early(series: RunSeries) -> Finding | None:
    rates = series.learning_rates()
    peak, first, last = max(value for _, value in rates), rates[0][0], rates[-1][0]
    large = max(step for step, value in rates if value >= _LARGE * peak)
    alive = max(step for step, value in rates if value >= _GONE * peak)
    with_rate = [(step, value) for step, value in series.losses() if step <= alive]
    without = [value for step, value in series.losses() if alive < step <= last]
    if last - alive < _MOST * (last - first) or len(with_rate) < 3 or len(without) < 5:
        return None
    early, late = trend([value for _, value in with_rate]), trend(without)
    level = statistics.median(without)
    if late.fell(_STILL) or late.rose(_STILL) or early.head - level <= max(_STILL * abs(early.head), 4 * early.error):
        return None
    near = sorted(with_rate, key=lambda pair: abs(pair[0] - large))[:5]
    to_come = statistics.median(value for _, value in near) - level
    # a loss that was flat before the rate fell had come to its end
    if to_come <= max(_UNFINISHED * (early.head - level), early.noise):
        return None
    line = _line_it_stays_above(series, level)
    entropy = series.facts.entropy_nats
    if entropy is not None and series.training_nats() and level < _NEAR_ENTROPY * entropy:
        return None
    return from_page(
        "schedule-decays-too-early",
        f"highest {peak:.3g}; below {_LARGE:.0%} of it after step {large:,}, below 1 % after step {alive:,} of "
        f"{last:,}; {rates[-1][1]:.3g} at the end",
        f"training loss {early.head:.4g} at the start, {early.tail:.4g} near step {alive:,}, {late.tail:.4g} at "
        "the end: it stopped falling with the rate",
        line if line is not None else None,
        severity="note" if line is None else "warning",
        words={"share": f"{(last - alive) / (last - first):.0%}"},
    )


def _line_it_stays_above(series: RunSeries, level: float) -> str | None:
    """Return evidence that there was more to learn; None if neither the log nor the caller gives any."""
    facts = series.facts
    if not series.training_nats():
        return None
    if facts.unigram_nats is not None:
        above = level >= facts.unigram_nats
        return f"the unigram line, {facts.unigram_nats:.3f}, was not reached" if above else None
    if facts.uniform_nats is None or not facts.random_student or level < _NEAR_UNIFORM * facts.uniform_nats:
        return None
    return f"log V, a uniform guess, is {facts.uniform_nats:.3f}; the student began with random weights"


def _cut_short(series: RunSeries) -> Finding | None:
    rates = series.learning_rates()
    peak_at = max(range(len(rates)), key=lambda place: rates[place][1])
    peak, (last_step, last) = rates[peak_at][1], rates[-1]
    rest = rates[peak_at:]
    if len(rest) < _FEWEST or last < _HIGH_AT_THE_END * peak or any(b[1] > a[1] for a, b in pairwise(rest)):
        return None
    planned = series.facts.planned_steps
    if planned is not None and last_step < planned:
        return None  # the log ends before the run: the check of the order reports it
    before_step, before = rest[-max(2, len(rest) // 5)]
    whole = (peak - last) / max(1, last_step - rest[0][0])
    late = (before - last) / max(1, last_step - before_step)
    # a schedule that flattens has come to its end: one with a floor, or one that falls with 1/√step
    if late <= 0 or late < _STILL_FALLING * whole:
        return None
    return from_page(
        "schedule-cut-short",
        f"peak {peak:.3g}, last {last:.3g} at step {last_step:,}: {last / peak:.0%} of the peak",
        f"at this slope it reaches zero about {last / late:,.0f} steps later",
    )


@check("run-budget")
def check_budget(series: RunSeries) -> Checked:
    """Check for a held-out loss that still falls at the end."""
    held_out = series.held_out_losses()
    yield Scope(f"{len(held_out)} held-out losses")
    if len(held_out) < _FEWEST_HELD_OUT:
        raise Skipped(f"fewer than {_FEWEST_HELD_OUT} held-out losses")
    late = held_out[-max(3, len(held_out) // 3) :]
    rate, error = slope([step for step, _ in late], [value for _, value in late])
    (step_before, before), (last_step, last) = held_out[-2:]
    # a curve that flattens is judged by its last piece
    rate = max(rate, (last - before) / (last_step - step_before))
    more_steps = _PART * (held_out[-1][0] - held_out[0][0])
    gain = -rate * more_steps
    if last <= 0 or gain < _STILL_FALLS * last or -rate < 2 * error or last != min(value for _, value in held_out):
        return
    yield from_page(
        "budget-too-small",
        f"held-out {late[0][1]:.4g} at step {late[0][0]:,}, {last:.4g} at step {held_out[-1][0]:,}, the last",
        f"at that rate {more_steps:,.0f} more steps would lower it by another {gain:.3g} ({gain / last:.0%})",
    )


@check("study-differences")
def check_differences(results: StudyResults) -> Checked:
    """Check for arms that cannot be distinguished from SFT, by their interval or over all comparisons together.

    Args:
        results: of a finished study.
    """
    compared = [arm for arm in results.arms if arm.against_sft is not None and arm.shown_failure is None]
    yield Scope(f"{len(compared)} arms against SFT")
    if not compared:
        raise Skipped("no arm is compared with SFT")
    lines = [
        f"{arm.name}: {arm.against_sft.mean:+.3f} nats per token, {_interval(arm.against_sft)} "
        f"({arm.against_sft.measured_on or plural(len(arm.seeds), 'seed')})"
        for arm in compared
        if arm.against_sft is not None and arm.against_sft.outcome == "open"
    ]
    if lines:
        yield from_page("difference-below-interval", *lines)


def _interval(difference: Interval) -> str:
    """Return the interval, and the p-value over all comparisons if the interval alone would separate the two."""
    if difference.low is None or difference.high is None:
        return "too few rows for an interval"
    text = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    if not difference.excludes_zero:
        return text
    return f"{text}, p {difference.adjusted_p:.2g} over {difference.comparisons} arms (Holm)"
