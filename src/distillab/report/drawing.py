"""Draw SVG; colours are CSS classes, so that a figure follows the reader's light or dark setting.

Places are in user units (px at full size). Every text is made visible and escaped only here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from distillab.report.safety import visible

Point = tuple[float, float]


@dataclass
class Drawing:
    """One SVG picture that is built up in reading order.

    Args:
        key: unique in the page; becomes part of the ids.
        width, height: the view box in px.
        title: read aloud first.
        description: what the picture shows, in words.
        css: extra class of the svg element.
    """

    key: str
    width: float
    height: float
    title: str
    description: str
    css: str = ""
    _parts: list[Markup] = field(default_factory=list)

    def line(self, a: Point, b: Point, css: str) -> None:
        """Draw a straight line."""
        self._add('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>', css, *_places(*a, *b))

    def path(self, points: Sequence[Point], css: str) -> None:
        """Draw an open line through the points."""
        self._add('<polyline class="{}" points="{}"/>', css, _point_list(points))

    def area(self, points: Sequence[Point], css: str) -> None:
        """Draw a closed, filled shape."""
        self._add('<polygon class="{}" points="{}"/>', css, _point_list(points))

    def box(self, corner: Point, width: float, height: float, css: str) -> None:
        """Draw a filled rectangle."""
        self._add('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>', css, *_places(*corner, width, height))

    def text(self, at: Point, text: str, css: str = "", *, anchor: str = "start", whole: str = "") -> None:
        """Write a text whose baseline starts, centres or ends at the point; `whole` is shown when pointed at."""
        tip = Markup("<title>{}</title>").format(visible(whole)) if whole and whole != text else Markup("")
        x, y = _places(*at)
        self._add('<text class="{}" x="{}" y="{}" text-anchor="{}">{}{}</text>', css, x, y, anchor, visible(text), tip)

    def marker(self, at: Point, shape: str, css: str, radius: float = 4.0) -> None:
        """Draw a marker; see `marker`."""
        self._parts.append(marker(shape, at, css, radius))

    def svg(self) -> Markup:
        """Return the finished picture."""
        head = Markup(
            '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d" '
            'xmlns="http://www.w3.org/2000/svg"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
        ).format(
            self.css,
            *_places(self.width, self.height),
            *(self.key,) * 2,
            *(self.key, visible(self.title), self.key, visible(self.description)),
        )
        return head + Markup("\n").join(self._parts) + Markup("</svg>")

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template).format(*values))


def marker(shape: str, at: Point, css: str, radius: float) -> Markup:
    """Draw a marker as SVG: circle, ring, square, diamond, triangle, down, right, left, pentagon, star, cross, plus.

    `open` before a shape leaves its inside empty.
    """
    x, y = at
    if shape in ("circle", "ring"):
        kind = "mark-open" if shape == "ring" else "mark"
        return Markup('<circle class="{} {}" cx="{}" cy="{}" r="{}"/>').format(kind, css, *_places(x, y, radius))
    if shape in ("cross", "plus"):
        arms = _cross(x, y, radius, 45 if shape == "cross" else 0)
        return Markup('<path class="mark-line {}" d="{}"/>').format(css, arms)
    kind = "mark-open" if shape.startswith("open ") else "mark"
    corners = {
        "square": _polygon(x, y, radius * 1.2, 4, 45),
        "diamond": _polygon(x, y, radius * 1.3, 4, 0),
        "triangle": _polygon(x, y, radius * 1.3, 3, -90),
        "down": _polygon(x, y, radius * 1.3, 3, 90),
        "right": _polygon(x, y, radius * 1.3, 3, 0),
        "left": _polygon(x, y, radius * 1.3, 3, 180),
        "pentagon": _polygon(x, y, radius * 1.2, 5, -90),
        "star": _star(x, y, radius * 1.5),
    }[shape.removeprefix("open ")]
    return Markup('<polygon class="{} {}" points="{}"/>').format(kind, css, _point_list(corners))


def legend_marker(shape: str, css: str) -> Markup:
    """Return a marker on a short line, as a separate picture for a legend; hidden from screen readers."""
    line = Markup('<line class="curve {}" x1="0" y1="7" x2="26" y2="7"/>').format(css)
    if css == "warn":
        line = Markup('<line class="curve warn failure" x1="0" y1="7" x2="26" y2="7"/>')
    return Markup('<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true">{}{}</svg>').format(
        line, marker(shape, (13, 7), css, 4)
    )


def fitted(text: str, longest: int) -> str:
    """Return the text with at most `longest` characters: names that differ at either end stay different.

    >>> fitted("logits_at_temperature_2", 13)
    'logits…ture_2'
    """
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"


def _places(*values: float) -> tuple[Markup, ...]:
    # Two decimals: finer than a pixel, and the same text on every machine.
    return tuple(escape(f"{value:.2f}".rstrip("0").rstrip(".") or "0") for value in values)


def _point_list(points: Iterable[Point]) -> Markup:
    return Markup(" ").join(Markup("{},{}").format(*_places(*point)) for point in points)


def _polygon(x: float, y: float, radius: float, corners: int, turn: float) -> list[Point]:
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _star(x: float, y: float, radius: float) -> list[Point]:
    angles = [(math.radians(-90 + 36 * i), radius if i % 2 == 0 else radius * 0.42) for i in range(10)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in angles]


def _cross(x: float, y: float, radius: float, turn: float) -> Markup:
    d = radius * (0.8 if turn else 1.1)
    ends = ((-d, -d, d, d), (-d, d, d, -d)) if turn else ((-d, 0, d, 0), (0, -d, 0, d))
    return Markup(" ").join(Markup("M{} {}L{} {}").format(*_places(x + a, y + b, x + c, y + e)) for a, b, c, e in ends)
