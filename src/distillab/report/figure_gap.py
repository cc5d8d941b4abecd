"""Draw the picture of a study: each arm between SFT and its teacher, with its interval, by level of access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distillab.records import FAMILIES, Comparison, Family, Recovered
from distillab.report.drawing import Drawing, fitted
from distillab.report.entries import Entry, of_kind
from distillab.report.numbers import signed
from distillab.report.scales import Axis, plain_axis

_LOWEST, _HIGHEST = -1.0, 2.0  # intervals are cut there: of few seeds they can be hundreds of per cent wide
_ROW, _TOP = 34.0, 30.0


@dataclass(frozen=True)
class _Layout:
    """Places in px. `above` puts the names over their rows, for narrow screens."""

    key: str
    css: str
    width: float
    left: float
    right: float
    above: bool

    @property
    def row(self) -> float:
        """The height of an arm."""
        return _ROW + 12 if self.above else _ROW


_LAYOUTS = (
    _Layout("gapw", "figure wide", 1040, 300, 850, above=False),
    _Layout("gapn", "figure narrow", 380, 14, 366, above=True),
)


@dataclass(frozen=True)
class GapFigure:
    """The picture in two layouts, and by which family it was drawn."""

    pictures: tuple[Markup, ...]
    family: Family
    meaning: str
    left_out: tuple[str, ...]


def figure_gap(found: Sequence[Entry]) -> GapFigure | None:
    """Draw the share of the gap that each arm has closed, by the first family in which any arm has one.

    Returns:
        None where no arm has a share: nothing is compared, or no teacher is better than SFT.
    """
    arms = of_kind(found, "arm")
    for family in FAMILIES:
        known = [
            (arm, one, one.recovered) for arm in arms if (one := _compared(arm, family)) and one.recovered is not None
        ]
        drawn = [(arm, one, share) for arm, one, share in known if math.isfinite(share.share)]
        if drawn:
            names = {arm.name for arm, *_ in drawn}
            left_out = tuple(arm.name for arm in arms if arm.name not in names and arm.comparisons)
            pictures = tuple(_draw(layout, drawn) for layout in _LAYOUTS)
            return GapFigure(pictures, family, FAMILIES[family], left_out)
    return None


def _compared(arm: Entry, family: Family) -> Comparison | None:
    return next((one for one in arm.comparisons if one.family == family), None)


def _draw(layout: _Layout, drawn: Sequence[tuple[Entry, Comparison, Recovered]]) -> Markup:
    ends = [min(max(v, _LOWEST), _HIGHEST) for *_, one in drawn for v in (one.low, one.high) if math.isfinite(v)]
    shares = [one.share for *_, one in drawn]
    axis = plain_axis([0.0, 1.0, *ends, *shares], layout.left, layout.right)
    bottom = _TOP + layout.row * len(drawn)
    title = "Share of the gap between SFT and the teacher that each arm has closed"
    picture = Drawing(layout.key, layout.width, bottom + 26, title, _description(drawn), layout.css)
    every = 0.5 if layout.above or axis.parts[0].high - axis.parts[0].low > 1.8 else 0.25
    first, last = math.ceil(axis.parts[0].low / every), math.floor(axis.parts[0].high / every)
    for tick in (number * every for number in range(first, last + 1)):
        css = "axis" if tick in (0, 1) else "grid"
        picture.line((axis.place(tick), _TOP - 6), (axis.place(tick), bottom), css)
        picture.text(
            (axis.place(tick), bottom + 17), f"{tick * 100:.0f} %".replace("-", "−"), "small muted", anchor="middle"
        )
    picture.text((axis.place(0), _TOP - 12), "SFT", "name halo", anchor="middle")
    picture.text((axis.place(1), _TOP - 12), "teacher", "name halo", anchor="middle")
    for index, (arm, one, share) in enumerate(drawn):
        _draw_row(picture, axis, layout, arm, one, share, _TOP + index * layout.row)
    return picture.svg()


def _draw_row(
    picture: Drawing, axis: Axis, layout: _Layout, arm: Entry, one: Comparison, share: Recovered, top: float
) -> None:
    y = top + layout.row - 13 if layout.above else top + layout.row / 2
    value = signed(share.share * 100, 0) + " %"
    name = f"{_access(arm)}: {arm.name}"
    if layout.above:
        picture.text((layout.left, y - 13), fitted(name, 38), "name halo", whole=name)
        picture.text((layout.right, y - 13), value, "halo", anchor="end")
    else:
        picture.text((8, y - 2), fitted(arm.name, 34), "name halo", whole=arm.name)
        picture.text((8, y + 12), _access(arm), "small muted")
        picture.text((layout.width - 10, y + 4), f"{value} {_interval(share)}", "halo", anchor="end")
    low, high = axis.parts[0].low, axis.parts[0].high
    picture.line((layout.left, y), (layout.right, y), "row-line")
    picture.line((axis.place(max(share.low, low)), y), (axis.place(min(share.high, high)), y), f"interval {arm.colour}")
    for end, shape in ((share.low, "left"), (share.high, "right")):
        if not low <= end <= high:  # it goes on
            picture.marker((axis.place(end), y), shape, arm.colour, 3.6)
    shape = "ring" if one.difference.outcome == "open" else "circle"  # filled: a difference; each row has its name
    picture.marker((axis.place(share.share), y), shape, arm.colour, 5.4)


def _access(arm: Entry) -> str:
    parts = [f"access {arm.access}", *(["on-policy"] if arm.on_policy else [])]
    return ", ".join([*parts, *(["other tokens"] if arm.across_tokenizers else [])])


def _interval(share: Recovered) -> str:
    return f"[{signed(share.low * 100, 0)}, {signed(share.high * 100, 0)}]"


def _description(drawn: Sequence[tuple[Entry, Comparison, Recovered]]) -> str:
    each = [f"{arm.name} ({_access(arm)}) {signed(one.share * 100, 0)} % {_interval(one)}" for arm, _, one in drawn]
    return f"SFT is 0 %, the teacher 100 %. With 95 % intervals: {', '.join(each)}."
