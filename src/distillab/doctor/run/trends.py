"""Where a noisy curve begins, where it ends, and whether the difference is more than its noise.

Shape letters: n values in the order of their steps. All functions want finite values.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_WINDOW_SHARE = 0.1
_LONGEST_WINDOW = 50
_NORMAL = 1.4826  # median absolute deviation of a normal variable -> its standard deviation
_SURE = 4.0  # standard errors
_LARGEST_FACTOR = 1e6


@dataclass(frozen=True)
class Trend:
    """A curve's ends.

    Attributes:
        head, tail: median of the first and last tenth of the values (at most 50).
        noise: standard deviation of a value around the curve, from the differences of neighbours.
        error: standard error of tail − head.
    """

    head: float
    tail: float
    noise: float
    error: float

    def fell(self, share: float = 0.03) -> bool:
        """Return whether the end is below the beginning by more than the noise, and by at least this share of it."""
        return self.head - self.tail > max(share * abs(self.head), _SURE * self.error)

    def rose(self, share: float = 0.03) -> bool:
        """Return whether the end is above the beginning by more than the noise, and by at least this share of it."""
        return self.tail - self.head > max(share * abs(self.head), _SURE * self.error)


def trend(values: Sequence[float]) -> Trend:
    """Return the ends and the noise of at least two values."""
    window = min(_LONGEST_WINDOW, max(1, int(len(values) * _WINDOW_SHARE)))
    spread = noise(values)
    # standard error of a median is about 1.25 times that of a mean
    error = 1.25 * spread * (2 / window) ** 0.5
    return Trend(statistics.median(values[:window]), statistics.median(values[-window:]), spread, error)


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation around a slow curve: from differences of neighbours, so that the slope has no part.

    For fewer than eight values the result is 0.
    """
    if len(values) < 8:
        return 0.0
    steps = [later - earlier for earlier, later in pairwise(values)]
    middle = statistics.median(steps)
    return _NORMAL * statistics.median([abs(step - middle) for step in steps]) / 2**0.5


def slope(steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return the least-squares slope a step, and its standard error, of at least three points at differing steps."""
    x = np.asarray(steps, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    size = float((x * x).sum())
    # values near the end of float64 give an infinite slope, with which nothing is found
    with np.errstate(over="ignore", invalid="ignore"):
        rate = float((x * y).sum()) / size
        rest = y - y.mean() - rate * x
        return rate, float((rest * rest).sum() / max(1, len(x) - 2) / size) ** 0.5


def spikes(values: Sequence[float], *, factor: float) -> list[int]:
    """Return the places of single values above `factor` times the median of their neighbours, far outside their noise.

    A value is lone where the curve comes back within the neighbourhood, so that a jump to a new level is none. The
    first tenth is not looked at: curves move fast there.
    """
    reach, found = 10, []
    for place in range(max(reach, len(values) // 10), len(values)):
        around = [*values[place - reach : place], *values[place + 1 : place + 1 + reach]]
        after = values[place + 1 : place + 1 + reach]
        if len(after) < 3:
            break
        middle = statistics.median(around)
        spread = _NORMAL * statistics.median([abs(value - middle) for value in around])
        lone = statistics.median(after) < middle + (values[place] - middle) / 2
        if lone and values[place] > factor * middle > 0 and values[place] - middle > 10 * spread:
            found.append(place)
    return found


def near_factor(ratio: float, *, within: float = 0.1) -> int | None:
    """Return the whole k ≥ 2 with ratio ≈ k or ratio ≈ 1/k (given as −k), else None.

    >>> near_factor(3.98), near_factor(0.2503), near_factor(1.3)
    (4, -4, None)
    """
    if not 1 / _LARGEST_FACTOR < ratio < _LARGEST_FACTOR:
        return None
    size, sign = (ratio, 1) if ratio >= 1 else (1 / ratio, -1)
    whole = round(size)
    return sign * whole if whole >= 2 and abs(size / whole - 1) <= within else None
