"""Was the run long enough, and the study large enough, to show anything?"""

from __future__ import annotations

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.series import RunSeries
from distillab.doctor.run.trends import slope
from distillab.records import Interval, StudyResults
from distillab.terminal import plural

_FEWEST = 5
_STILL = 0.05
_PART = 0.2  # of the run: the extrapolated steps


@check("run-budget")
def check_budget(series: RunSeries) -> Checked:
    """Check for a held-out loss that still falls at the end."""
    held_out = series.held_out_losses()
    yield Scope(f"{len(held_out)} held-out losses")
    if len(held_out) < _FEWEST:
        raise Skipped(f"fewer than {_FEWEST} held-out losses")
    late = held_out[-max(3, len(held_out) // 3) :]
    rate, error = slope([step for step, _ in late], [value for _, value in late])
    (step_before, before), (last_step, last) = held_out[-2:]
    # a curve that flattens is judged by its last piece
    rate = max(rate, (last - before) / (last_step - step_before))
    more_steps = _PART * (held_out[-1][0] - held_out[0][0])
    gain = -rate * more_steps
    if last <= 0 or gain < _STILL * last or -rate < 2 * error or last != min(value for _, value in held_out):
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
