"""Is the student surer of its tokens than it is right?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.checks import Checked, Scope, Skipped, check
from distillab.doctor.page import from_page
from distillab.doctor.run.series import HeldOutPoint, RunSeries

_EXPECTED_ERROR = 0.1
_NATS_ROSE = 0.05
_KNOWS_SOMETHING = 0.2  # of the tokens; below, loss and accuracy show something worse


@check("run-confidence")
def check_confidence(series: RunSeries) -> Checked:
    """Check the logged calibration error; without one, a held-out loss that rises while the accuracy does not fall."""
    errors = [point for point in series.held_out if point.calibration_error is not None]
    both = [
        (p.step, p.loss, p.accuracy)
        for p in series.held_out
        if p.loss is not None and p.accuracy is not None and math.isfinite(p.loss + p.accuracy)
    ]
    yield Scope(f"{len(errors)} calibration errors, {len(both)} held-out losses with accuracy")
    if not errors and len(both) < 3:
        raise Skipped("neither calibration errors nor three held-out losses with accuracy are logged")
    evidence = _logged(errors[-1]) if errors else _surer(both)
    if evidence:
        yield from_page("over-confident", *evidence)


def _logged(last: HeldOutPoint) -> tuple[str, ...]:
    assert last.calibration_error is not None
    if last.calibration_error <= _EXPECTED_ERROR:
        return ()
    evidence = f"expected calibration error {last.calibration_error:.3f} at step {last.step:,}"
    if last.confidence is None or last.accuracy is None:
        return (evidence,)
    if last.confidence <= last.accuracy:
        return ()  # surer than right is what does harm; the error has no sign
    return (
        evidence,
        f"mean probability of the top-1 token {last.confidence:.3f}, accuracy {last.accuracy:.3f}",
    )


def _surer(points: Sequence[tuple[int, float, float]]) -> tuple[str, ...]:
    """Return the evidence of a loss that rises at the same accuracy: more confidence where the student is wrong."""
    best, last = min(points, key=lambda point: point[1]), points[-1]
    if best[0] == 0 or last[1] <= (1 + _NATS_ROSE) * best[1] or last[2] < max(best[2], _KNOWS_SOMETHING):
        return ()
    return tuple(
        f"step {step:,}: held-out {loss:.3f}, accuracy {accuracy:.3f}" for step, loss, accuracy in (best, last)
    )
