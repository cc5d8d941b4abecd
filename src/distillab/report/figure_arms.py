"""Draw figure 1: the held-out loss of every model, its seeds as dots, with the reference lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distillab.records import ReferenceLines
from distillab.report.drawing import Drawing, fitted
from distillab.report.entries import Entry, of_kind
from distillab.report.numbers import fixed, spread
from distillab.report.scales import Axis, broken_axis, tick_text

_TITLE = "Held-out loss of every model"


@dataclass(frozen=True)
class _Layout:
    """Places in px. `label_above` puts the names over their rows, for narrow screens."""

    key: str
    css: str
    width: float
    left: float
    right: float
    row: float
    label_above: bool
    label_letters: int

    @property
    def dots(self) -> float:
        """Distance of the dots from the top of their row."""
        return self.row - 11 if self.label_above else self.row / 2


_WIDE = _Layout("fig1w", "figure wide", 1040, 258, 868, 38, label_above=False, label_letters=30)
_NARROW = _Layout("fig1n", "figure narrow", 380, 10, 370, 50, label_above=True, label_letters=27)


def figure_arms(found: Sequence[Entry], references: ReferenceLines) -> tuple[Markup, ...]:
    """Draw the figure in two layouts, for wide and for narrow screens; empty where no value can be drawn."""
    drawn = [entry for entry in found if entry.comparable and _finite(entry.held_out_nats)]
    if not drawn:
        return ()
    return tuple(_draw(layout, drawn, references) for layout in (_WIDE, _NARROW))


def reference_values(references: ReferenceLines) -> tuple[tuple[str, float], ...]:
    """Return the reference lines that are finite: (name, nats per token)."""
    both = (("unigram", references.unigram_nats), ("log V", references.uniform_nats))
    return tuple((name, value) for name, value in both if math.isfinite(value))


def _finite(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value for value in values if math.isfinite(value))


def _axis(layout: _Layout, drawn: Sequence[Entry], references: ReferenceLines) -> Axis:
    near = [v for entry in of_kind(drawn, "arm", "teacher") for v in _finite(entry.held_out_nats)]
    far = [v for entry in of_kind(drawn, "undistilled", "failure") for v in _finite(entry.held_out_nats)]
    far += [value for _, value in reference_values(references)]
    share = 0.42 if layout.label_above else 0.36
    return broken_axis(near or far, far if near else [], layout.left, layout.right, far_share=share)


def _draw(layout: _Layout, drawn: Sequence[Entry], references: ReferenceLines) -> Markup:
    axis = _axis(layout, drawn, references)
    lines = list(reference_values(references))
    lines += [("undistilled student", e.held_out_nats[0]) for e in of_kind(drawn, "undistilled")]
    labels = _stacked([(axis.place(value), f"{name} {fixed(value, 2)}") for name, value in lines], layout)
    top = 14 * (1 + max((level for *_, level in labels), default=0)) + 12
    bottom = top + layout.row * len(drawn)
    picture = Drawing(layout.key, layout.width, bottom + 46, _TITLE, _description(drawn, lines, axis), layout.css)
    for index, entry in enumerate(drawn):
        if entry.is_failure:
            picture.box((0, top + index * layout.row), layout.width, layout.row, "failure-band")
    _draw_axis(picture, axis, top, bottom, layout)
    for place, _, _, level in labels:
        picture.line((place, top - 4 - 14 * level), (place, bottom), "reference")
    for _, text, centre, level in labels:
        picture.text((centre, top - 8 - 14 * level), text, "small muted halo", anchor="middle")
    for index, entry in enumerate(drawn):
        _draw_row(picture, axis, layout, entry, top + index * layout.row)
    return picture.svg()


def _stacked(lines: Sequence[tuple[float, str]], layout: _Layout) -> list[tuple[float, str, float, int]]:
    """Return labels above the axis: (place of the line, text, centre of the text, level), without overlap."""
    ends: list[float] = []
    placed: list[tuple[float, str, float, int]] = []
    for place, text in sorted(lines):
        half = len(text) * 3.3
        centre = min(max(place, layout.left + half), layout.right - half + (0 if layout.label_above else 60))
        level = next((i for i, end in enumerate(ends) if centre - half > end + 6), len(ends))
        if level == len(ends):
            ends.append(0.0)
        ends[level] = centre + half
        placed.append((place, text, centre, level))
    return placed


def _draw_axis(picture: Drawing, axis: Axis, top: float, bottom: float, layout: _Layout) -> None:
    for part in axis.parts:
        picture.line((part.start, bottom), (part.end, bottom), "axis")
    for tick in axis.ticks(5 if layout.label_above else 9):
        place = axis.place(tick)
        picture.line((place, top), (place, bottom), "grid")
        picture.text((place, bottom + 16), tick_text(tick), "small muted", anchor="middle")
    if axis.broken:
        for place in (axis.parts[0].end, axis.parts[1].start):
            picture.line((place - 3, bottom + 6), (place + 3, bottom - 6), "axis")
    note = ("   (axis broken at //; the scale changes there)" if axis.broken else "") if not layout.label_above else ""
    middle = (layout.left + layout.right) / 2
    picture.text((middle, bottom + 36), f"held-out nats/token, lower is better{note}", "small", anchor="middle")


def _draw_row(picture: Drawing, axis: Axis, layout: _Layout, entry: Entry, top: float) -> None:
    y = top + layout.dots
    # Over all seeds, also those that cannot be drawn: one NaN makes the mean "not finite".
    of_seeds = spread(entry.held_out_nats)
    assert of_seeds is not None  # only entries with values are drawn
    has_sd = of_seeds.sd is not None and math.isfinite(of_seeds.sd)
    value_text = fixed(of_seeds.mean) + (f" ± {fixed(of_seeds.sd)}" if has_sd else "")
    name_at, value_at = (layout.left, layout.width - 6) if layout.label_above else (8, layout.width - 10)
    label_y = top + 18 if layout.label_above else y + (-2 if _under_name(entry) else 4)
    on = " on-warn" if entry.is_failure else ""
    under = "small warn-text" if on else "small muted"
    name = shown_name(entry)
    picture.text((name_at, label_y), fitted(name, layout.label_letters), f"name halo{on}", whole=name)
    if not layout.label_above:
        picture.text((name_at, y + 12), fitted(_under_name(entry), 36), under + on)
    picture.text((value_at, label_y if layout.label_above else y + 4), value_text, f"halo{on}", anchor="end")
    picture.line((layout.left, y), (layout.right, y), "row-line")
    if of_seeds.sd is not None and has_sd:
        ends = (axis.place(of_seeds.mean - of_seeds.sd), axis.place(of_seeds.mean + of_seeds.sd))
        picture.line((ends[0], y), (ends[1], y), f"interval {entry.colour}")
        mean = axis.place(of_seeds.mean)
        picture.line((mean, y - 9), (mean, y + 9), f"mean {entry.colour}")
    for value in _finite(entry.held_out_nats):
        picture.marker((axis.place(value), y), entry.marker, entry.colour, 4.2)


def shown_name(entry: Entry) -> str:
    """Return the name as in figures: a cross before every shown failure."""
    return f"✗ {entry.name}" if entry.is_failure else entry.name


def _under_name(entry: Entry) -> str:
    if entry.is_failure:
        return "shown failure, not a result"
    if entry.kind == "teacher":
        return "teacher"
    if entry.kind == "undistilled":
        return "as it was given"
    return f"access {entry.access}" + (f" · {entry.teacher}" if entry.teacher else "")


def _description(drawn: Sequence[Entry], lines: Sequence[tuple[str, float]], axis: Axis) -> str:
    means = []
    for entry in drawn:
        of_seeds = spread(entry.held_out_nats)
        assert of_seeds is not None  # only entries with values are drawn
        means.append(f"{entry.marked_name} {fixed(of_seeds.mean)}")
    text = f"Mean held-out nats/token: {', '.join(means)}. "
    text += f"References: {', '.join(f'{name} {fixed(value)}' for name, value in lines)}."
    return text + (" The axis is broken between the near and the far values." if axis.broken else "")
