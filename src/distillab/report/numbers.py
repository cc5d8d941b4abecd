"""Format numbers as text: fixed decimals, mean and spread over seeds, counts, times, sizes.

A missing value is `MISSING`, a NaN or an infinity is `BROKEN`: neither is ever printed as a number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "–"
BROKEN = "not finite"


def fixed(value: float | None, decimals: int = 3) -> str:
    """Write a value with a fixed number of decimals and a true minus sign.

    >>> fixed(-0.0421), fixed(None), fixed(float("nan"))
    ('−0.042', '–', 'not finite')
    """
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return BROKEN
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float, decimals: int = 3) -> str:
    """Write a value like `fixed`, with a plus sign before a positive one."""
    text = fixed(value, decimals)
    return f"+{text}" if math.isfinite(value) and value > 0 and text.strip("0.,") else text


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; `missing` counts the seeds without a value.

    `sd` is None below two values. Both are NaN where any value is not finite.
    """

    mean: float
    sd: float | None
    n: int
    missing: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and standard deviation (n − 1) of the values that are there; None where there is none.

    >>> spread([1.0, 3.0, None])
    Spread(mean=2.0, sd=1.4142135623730951, n=2, missing=1)
    """
    there = [value for value in values if value is not None]
    missing = len(values) - len(there)
    if not there:
        return None
    if not all(math.isfinite(value) for value in there):
        return Spread(math.nan, math.nan, len(there), missing)
    sd = statistics.stdev(there) if len(there) > 1 else None
    return Spread(statistics.fmean(there), sd, len(there), missing)


def count(value: float) -> str:
    """Write a whole number with thousands separators.

    >>> count(1234567)
    '1,234,567'
    """
    return fixed(value, 0)


def count_range(values: Sequence[int]) -> str:
    """Return one count where all are equal, else the lowest and the highest.

    >>> count_range([400, 400]), count_range([1000, 1200]), count_range([])
    ('400', '1,000 to 1,200', '–')
    """
    if not values:
        return MISSING
    low, high = min(values), max(values)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def duration(seconds: float) -> str:
    """Write seconds as a short text.

    >>> duration(4.25), duration(125), duration(7260)
    ('4.2 s', '2 min 05 s', '2 h 01 min')
    """
    if not math.isfinite(seconds):
        return BROKEN
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(size_bytes: float) -> str:
    """Write bytes in MiB or GiB.

    >>> size(3 * 2**29), size(5 * 2**20)
    ('1.50 GiB', '5 MiB')
    """
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.2f} GiB"
    return f"{size_bytes / 2**20:.0f} MiB"


def percent(share: float, decimals: int = 1) -> str:
    """Write a share between 0 and 1 in per cent, with the sign.

    >>> percent(0.7558)
    '75.6 %'
    """
    text = fixed(share * 100, decimals)
    return text if text == BROKEN else f"{text} %"
