"""Draw figure 2: the training loss and the held-out loss by step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distillab.records import CurvePoint, ReferenceLines
from distillab.report.drawing import Drawing, fitted
from distillab.report.entries import Entry, of_kind
from distillab.report.figure_arms import reference_values, shown_name
from distillab.report.scales import Axis, plain_axis, tick_text

_LEFT, _RIGHT, _TOP, _LOWEST = 42.0, 346.0, 12.0, 276.0
_LETTER, _LINE = 7.0, 13.0  # px of small text
_LONGEST = 30  # letters of a name; longer ones are cut in their middle, and whole in the legend
_LOG_FROM = 4.0
_DASHES = ("", "dash-1", "dash-2", "dash-3")
# The closer panel omits the first fall, which all arms share.
_CLOSER_FROM = 0.3


@dataclass(frozen=True)
class Series:
    """One line of a panel: the mean over seeds at each step, with the lowest and the highest seed."""

    entry: Entry
    term: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class _Layout:
    """Places in px. `named` writes the names beside their lines; without, the legend names them."""

    key: str
    css: str
    width: float
    right: float
    bottom: float
    named: bool

    def y(self, values: Sequence[float]) -> Axis:
        """Return the upright axis over all values."""
        return plain_axis(values, self.bottom, _TOP, log_from_ratio=_LOG_FROM)


@dataclass(frozen=True)
class Panel:
    """One picture, for wide and for narrow screens, and the words under it."""

    title: str
    svg: Markup
    caption: str


def held_out_series(found: Sequence[Entry]) -> tuple[Series, ...]:
    """Return held-out nats/token of every arm."""
    return tuple(s for entry in found if (s := _series(entry, "", lambda point: point.held_out_nats_per_token)))


def training_series(found: Sequence[Entry]) -> tuple[Series, ...]:
    """Return every term of every arm's training loss, each in its own unit."""
    series: list[Series] = []
    for entry in found:
        terms = list(dict.fromkeys(t for curve in entry.curves for point in curve for t in point.train_nats))
        for term in terms:
            one = _series(entry, term, _reader(term))
            series += [one] if one else []
    return tuple(series)


def _reader(term: str) -> Callable[[CurvePoint], float | None]:
    return lambda point: point.train_nats.get(term)


def _series(entry: Entry, term: str, read: Callable[[CurvePoint], float | None]) -> Series | None:
    """Return one line over the steps at which every seed has a finite value; None below two such steps."""
    of_seeds = []
    for curve in entry.curves:
        values = {point.step: read(point) for point in curve}
        of_seeds.append({step: v for step, v in values.items() if v is not None and math.isfinite(v)})
    if not of_seeds:
        return None
    steps = sorted(set.intersection(*(set(values) for values in of_seeds)))
    if len(steps) < 2:
        return None
    columns = [[values[step] for values in of_seeds] for step in steps]
    return Series(
        entry,
        term,
        tuple(steps),
        tuple(statistics.fmean(column) for column in columns),
        tuple(min(column) for column in columns),
        tuple(max(column) for column in columns),
    )


def held_out_panel(found: Sequence[Entry], references: ReferenceLines) -> Panel | None:
    """Return held-out loss of all arms with the reference lines; None where there are no curves."""
    series = held_out_series(found)
    if not series:
        return None
    lines = [
        *reference_values(references),
        *_models(found, "undistilled", "undistilled"),
        *_models(found, "teacher", ""),
    ]
    return Panel(
        "Held-out loss: what was learnt",
        _pictures("fig2a", "Held-out loss by training step", series, lines),
        f"Held-out nats/token{_scale_words(_values(series, lines))}. Band: lowest to highest seed. Dashed: reference "
        "lines.",
    )


def training_panel(found: Sequence[Entry]) -> Panel | None:
    """Return training loss of all arms, a line for each term; None where nothing was logged."""
    series = training_series(found)
    if not series:
        return None
    terms = list(dict.fromkeys(s.term for s in series))
    dashes = {term: _DASHES[min(i, len(_DASHES) - 1)] for i, term in enumerate(terms)}
    kinds = ("solid", "dashed", "dotted", "dash-dotted")
    styles = ", ".join(f"{kinds[min(i, 3)]}: {term}" for i, term in enumerate(terms))
    return Panel(
        "Training loss: what the log shows",
        _pictures("fig2b", "Training loss by training step", series, [], dashes),
        f"Each term in its own unit, unweighted{_scale_words(_values(series, []))}; {styles}.",
    )


def closer_panel(found: Sequence[Entry]) -> Panel | None:
    """Return held-out loss of the results alone after the first fall; None below two arms or three points."""
    cut = [_from_share(s) for s in held_out_series(of_kind(found, "arm"))]
    series = [s for s in cut if len(s.steps) >= 3]
    if len(series) < 2:
        return None
    return Panel(
        "Held-out loss, closer: the results alone",
        _pictures("fig2c", "Held-out loss by training step, results alone", series, []),
        f"The same curves from step {min(s.steps[0] for s in series)} on, without the shown failures.",
    )


def _from_share(series: Series) -> Series:
    first = next(i for i, step in enumerate(series.steps) if step >= _CLOSER_FROM * series.steps[-1])
    cut = slice(first, None)
    return Series(series.entry, series.term, series.steps[cut], series.mean[cut], series.low[cut], series.high[cut])


def _models(found: Sequence[Entry], kind: str, name: str) -> list[tuple[str, float]]:
    chosen = [(e.name, nats) for e in found if e.kind == kind and e.comparable for nats in e.held_out_nats[:1]]
    return [(name or own, nats) for own, nats in chosen if math.isfinite(nats)]


def _values(series: Sequence[Series], lines: Sequence[tuple[str, float]]) -> list[float]:
    return [v for s in series for v in (*s.low, *s.high)] + [value for _, value in lines]


def _scale_words(values: Sequence[float]) -> str:
    return ", logarithmic scale" if plain_axis(values, 0.0, 1.0, log_from_ratio=_LOG_FROM).parts[0].log else ""


def _pictures(
    key: str,
    title: str,
    series: Sequence[Series],
    lines: Sequence[tuple[str, float]],
    dashes: dict[str, str] | None = None,
) -> Markup:
    """Draw the panel for wide and for narrow screens; it grows with the number and the length of its names."""
    names = [name for name, _ in lines] + [shown_name(s.entry) for s in _labelled(series)]
    beside = 14 + _LETTER * min(_LONGEST, max(map(len, names)))
    bottom = max(_LOWEST, _TOP + _LINE * len(names))
    wide = _Layout(f"{key}w", "figure wide", max(460.0, _RIGHT + beside), _RIGHT, bottom, named=True)
    narrow = _Layout(f"{key}n", "figure narrow", 380, 374, _LOWEST, named=False)
    return _draw(wide, title, series, lines, dashes or {}) + _draw(narrow, title, series, lines, dashes or {})


def _draw(
    layout: _Layout,
    title: str,
    series: Sequence[Series],
    lines: Sequence[tuple[str, float]],
    dashes: dict[str, str],
) -> Markup:
    y, right, bottom = layout.y(_values(series, lines)), layout.right, layout.bottom
    x = plain_axis([step for s in series for step in (s.steps[0], s.steps[-1])], _LEFT + 4, right - 4)
    picture = Drawing(layout.key, layout.width, bottom + 44, title, _description(series, lines), layout.css)
    for tick in y.ticks(6):
        picture.line((_LEFT, y.place(tick)), (right, y.place(tick)), "grid")
        picture.text((_LEFT - 6, y.place(tick) + 4), tick_text(tick), "small muted", anchor="end")
    for tick in x.ticks(5):
        if tick >= 0:
            picture.line((x.place(tick), bottom), (x.place(tick), bottom + 4), "axis")
            picture.text((x.place(tick), bottom + 18), tick_text(tick), "small muted", anchor="middle")
    picture.line((_LEFT, bottom), (right, bottom), "axis")
    picture.text(((_LEFT + right) / 2, bottom + 38), "optimizer step", "small", anchor="middle")
    for _, value in lines:
        picture.line((_LEFT, y.place(value)), (right, y.place(value)), "reference")
    for one in series:
        _draw_series(picture, one, x, y, dashes.get(one.term, ""))
    labels = [(y.place(value), name, "muted") for name, value in lines]
    if layout.named:
        labels += [(y.place(s.mean[-1]), shown_name(s.entry), f"{s.entry.colour}-text") for s in _labelled(series)]
        _draw_labels(picture, labels, layout)
    else:
        for place, name, css in labels:
            picture.text((right - 4, place - 4), name, f"small {css}", anchor="end")
    return picture.svg()


def _labelled(series: Sequence[Series]) -> list[Series]:
    """Return one line for each entry: its first term."""
    return list({s.entry.name: s for s in reversed(series)}.values())


def _draw_series(picture: Drawing, one: Series, x: Axis, y: Axis, dash: str) -> None:
    def places(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(x.place(step), y.place(value)) for step, value in zip(one.steps, values, strict=True)]

    colour = one.entry.colour
    failure = " failure" if one.entry.is_failure else ""
    if len(one.entry.seeds) > 1:
        picture.area([*places(one.low), *reversed(places(one.high))], f"band {colour}")
    mean = places(one.mean)
    picture.path(mean, f"curve {colour} {dash}{failure}".replace("  ", " ").strip())
    every = max(1, round(len(mean) / 5))
    for point in mean[::-1][::every]:
        picture.marker(point, one.entry.marker, colour, 3.2)


def _draw_labels(picture: Drawing, labels: Sequence[tuple[float, str, str]], layout: _Layout) -> None:
    """Write the names at the right end of their lines, moved apart where they would overlap."""
    distance = _LINE
    ordered = sorted(labels)
    places = [place for place, *_ in ordered]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + distance)
    last = layout.bottom + 4
    for i in reversed(range(len(places))):
        places[i] = min(places[i], last)
        last = places[i] - distance
    for (true_place, name, css), place in zip(ordered, places, strict=True):
        picture.line((layout.right, true_place), (layout.right + 7, place), "leader")
        picture.text((layout.right + 10, place + 4), fitted(name, _LONGEST), f"small {css}", whole=name)


def _description(series: Sequence[Series], lines: Sequence[tuple[str, float]]) -> str:
    values = [
        f"{s.entry.marked_name}{' ' + s.term if s.term else ''}: "
        f"{s.mean[0]:.3f} at step {s.steps[0]}, {s.mean[-1]:.3f} at step {s.steps[-1]}"
        for s in series
    ]
    text = "; ".join(values) + "."
    return text + (f" References: {', '.join(f'{name} {value:.3f}' for name, value in lines)}." if lines else "")
