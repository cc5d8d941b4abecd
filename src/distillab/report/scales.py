"""Map values to places: linear, logarithmic and broken axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Part:
    """One unbroken part of an axis: values low … high are at places start … end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value."""
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int) -> tuple[float, ...]:
        """Return about `wanted` round values inside the part."""
        return _log_ticks(self.low, self.high, wanted) if self.log else _round_ticks(self.low, self.high, wanted)


@dataclass(frozen=True)
class Axis:
    """One or two parts; between two parts the axis is broken and nothing is drawn."""

    parts: tuple[Part, ...]

    @property
    def broken(self) -> bool:
        """True where the axis leaves values out."""
        return len(self.parts) > 1

    def place(self, value: float) -> float:
        """Return the place of a value; one in the gap or outside goes to the nearest end."""
        for part in self.parts:
            if value <= part.high:
                return part.place(max(value, part.low))
        last = self.parts[-1]
        return last.place(min(value, last.high))

    def ticks(self, wanted: int) -> tuple[float, ...]:
        """Return round values over all parts; `wanted` is shared by their lengths."""
        whole = sum(abs(part.end - part.start) for part in self.parts)
        found: list[float] = []
        for part in self.parts:
            found.extend(part.ticks(max(2, round(wanted * abs(part.end - part.start) / whole))))
        return tuple(found)


def plain_axis(values: Sequence[float], start: float, end: float, *, log_from_ratio: float = math.inf) -> Axis:
    """Return an axis over all values with a margin; logarithmic where all are positive, max/min ≥ `log_from_ratio`."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= log_from_ratio:
        return Axis((Part(low / 1.06, high * 1.06, start, end, log=True),))
    low, high = _with_margin(low, high)
    return Axis((Part(low, high, start, end),))


def broken_axis(near: Sequence[float], far: Sequence[float], start: float, end: float, *, far_share: float) -> Axis:
    """Return an axis with room for the near values, without the empty part before far, higher ones.

    Without far values, or where they lie within twice the near range, the axis is plain.

    Args:
        near: the values whose differences matter.
        far: values that must be shown, but would compress the near ones.
        start, end: places of the ends.
        far_share: part of the length that the far values get.
    """
    low, high = _with_margin(min(near), max(near))
    beyond = [value for value in far if value > high]
    before = [value for value in far if value < low]
    if before:
        low = min(before) - 0.06 * (high - min(before))
    if not beyond or max(beyond) < high + 1.5 * (high - low):
        return plain_axis([*near, *far], start, end)
    far_low, far_high = _with_margin(min(beyond), max(beyond), least=0.1 * max(beyond))
    if far_low <= high:
        return plain_axis([*near, *far], start, end)
    gap = 0.03 * (end - start)
    border = end - far_share * (end - start)
    return Axis((Part(low, high, start, border - gap / 2), Part(far_low, far_high, border + gap / 2, end)))


def tick_text(value: float) -> str:
    """Return a tick's number with no needless zeros.

    >>> tick_text(1.50), tick_text(2000.0), tick_text(0.0001)
    ('1.5', '2,000', '0.0001')
    """
    if value and abs(value) < 0.001:
        return f"{value:.1g}" if abs(value) < 0.0001 else f"{value:.4f}"
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")


def _with_margin(low: float, high: float, *, least: float = 0.0) -> tuple[float, float]:
    margin = max(0.08 * (high - low), least / 2, 1e-2 * max(abs(low), abs(high)), 1e-9)
    return low - margin, high + margin


def _round_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return tuple(round(i * step, 10) for i in range(first, last + 1))


def _log_ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = [f * 10.0**power for power in range(first, last + 1) for f in factors if low <= f * 10.0**power <= high]
        if len(ticks) <= wanted + 1:
            break
    return tuple(round(tick, 12) for tick in ticks) if len(ticks) > 1 else _round_ticks(low, high, wanted)
