"""Draw cost against quality: the time of one run with its share of what was made once, and the held-out loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from markupsafe import Markup

from distillab.report.drawing import Drawing, fitted
from distillab.report.entries import Entry, of_kind
from distillab.report.numbers import duration, fixed
from distillab.report.scales import plain_axis, tick_text

_LEFT, _TOP, _BOTTOM, _LINE = 56.0, 34.0, 310.0, 14.0
_LETTERS = 30


def figure_cost(found: Sequence[Entry]) -> tuple[Markup, ...]:
    """Draw the scatter for wide and for narrow screens; empty where fewer than two arms have both values."""
    points = [(arm, *point) for arm in of_kind(found, "arm") if (point := _point(arm)) is not None]
    if len(points) < 2:
        return ()
    return (
        _draw("costw", "figure wide", 1040.0, 780.0, points, named=True),
        _draw("costn", "figure narrow", 380.0, 366.0, points, named=False),
    )


def _point(arm: Entry) -> tuple[float, float] | None:
    """Return (seconds a run, held-out nats per token), means over the seeds; None where one is not known."""
    shared = 0.0 if arm.access == "none" else arm.shared_s
    if not arm.costs or shared is None or not arm.held_out_nats:
        return None
    seconds = statistics.fmean(cost.wall_s for cost in arm.costs) + shared / len(arm.costs)
    nats = statistics.fmean(arm.held_out_nats)
    return (seconds, nats) if math.isfinite(seconds) and math.isfinite(nats) and seconds > 0 else None


def _draw(
    key: str, css: str, width: float, right: float, points: Sequence[tuple[Entry, float, float]], *, named: bool
) -> Markup:
    bottom = max(_BOTTOM, _TOP + _LINE * len(points)) if named else _BOTTOM
    x = plain_axis([seconds for _, seconds, _ in points], _LEFT, right - 6, log_from_ratio=10.0)
    y = plain_axis([nats for *_, nats in points], bottom, _TOP)
    each = "; ".join(f"{arm.name}: {duration(seconds)}, {fixed(nats)}" for arm, seconds, nats in points)
    picture = Drawing(key, width, bottom + 46, "Cost against quality of every arm", f"{each}.", css)
    for tick in y.ticks(6):
        picture.line((_LEFT, y.place(tick)), (right, y.place(tick)), "grid")
        picture.text((_LEFT - 6, y.place(tick) + 4), tick_text(tick), "small muted", anchor="end")
    for tick in x.ticks(7 if named else 4):
        picture.line((x.place(tick), bottom), (x.place(tick), bottom + 4), "axis")
        picture.text((x.place(tick), bottom + 18), duration(tick), "small muted", anchor="middle")
    picture.line((_LEFT, bottom), (right, bottom), "axis")
    picture.text((8, 16), "held-out nats/token", "small")
    note = ", logarithmic scale" if x.parts[0].log else ""
    picture.text(((_LEFT + right) / 2, bottom + 38), f"time of one run{note}", "small", anchor="middle")
    last = -math.inf
    for arm, seconds, nats in sorted(points, key=lambda point: y.place(point[2])):
        at = (x.place(seconds), y.place(nats))
        picture.marker(at, arm.marker, arm.colour, 5.4)
        if named:
            last = max(at[1], last + _LINE)
            picture.line((at[0] + 7, at[1]), (right + 8, last), "leader")
            name = fitted(arm.name, _LETTERS)
            picture.text((right + 12, last + 4), name, f"small {arm.colour}-text", whole=arm.name)
    return picture.svg()
