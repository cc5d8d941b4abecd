"""Store numbers in fewer bytes: log-probabilities in one or two bytes, hidden states in one with a scale a row.

The loss of precision is given here in nats and in units of a row's largest number; `docs/performance.md` has it in
bytes and in gradients. N positions, K kept tokens, P rows of width D.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from distillab.errors import NumericsError

Floats = npt.NDArray[np.float32]

COMPANDING_SCALE = 1.5
"""Codes are evenly spaced below about this many nats, geometrically above. See `companded_codes`."""

COMPANDING_LIMIT = 24.0
"""Nats at the last finite code: a log-probability below -24 is read as -24, a mass of 4 · 10⁻¹¹."""

NO_MASS = 255
"""The code of a log-probability of -inf: exactly no mass."""

FLOAT16_LEAST = -65504.0

ROUNDING_SLACK = 1e-3
"""Nats above 0 that a log-probability can have by rounding; it is stored as 0."""


_STEP = math.log1p(COMPANDING_LIMIT / COMPANDING_SCALE) / (NO_MASS - 1)


def _companding_table() -> Floats:
    # 0.0 - …, because -0.0 and 0.0 are equal but have different bytes
    finite = 0.0 - COMPANDING_SCALE * np.expm1(np.arange(NO_MASS, dtype=np.float64) * _STEP)
    return np.append(finite, -np.inf).astype(np.float32)


COMPANDED_LOGP = _companding_table()
"""(256,) the log-probability of every code."""


def _borders() -> Floats:
    finite = -COMPANDED_LOGP[:NO_MASS].astype(np.float64)
    middles = (finite[1:] + finite[:-1]) / 2
    # every finite number has a finite code, and only -inf the last code
    return np.concatenate(([-np.inf], middles, [np.finfo(np.float32).max])).astype(np.float32)


_BORDERS = _borders()
"""(256,) code u is for nats above _BORDERS[u], up to and including _BORDERS[u + 1]."""


def check_logp(name: str, logp: Floats) -> None:
    """Check log-probabilities.

    Args:
        logp: any shape, positions first.
    Raises:
        NumericsError: NaN, +inf or more than 0 by more than rounding.
    """
    # comparisons with NaN are False
    bad = ~(logp <= ROUNDING_SLACK)
    if bad.any():
        place = np.argwhere(bad)[0]
        raise NumericsError(
            "A log-probability of the teacher is not one: it must be at most 0, or -inf for no mass.",
            facts=(f"{name}: {logp[tuple(place)]} at scored position {place[0]} of the row",),
            fix="check the teacher: NaN comes from overflow (try teacher.dtype: float32), or from damaged weights",
        )


def companded_codes(logp: Floats) -> npt.NDArray[np.uint8]:
    """Encode log-probabilities in one byte each, finer near 0, where an error weighs most.

            table(u) = -s · (exp(u · log(1 + L/s) / 254) - 1),  u = 0 … 254;  255 is -inf;  s = 1.5, L = 24

        The error is at most half the distance to the next code, 0.0056 · (1.5 + |logp|) nats: 0.008 at 0, 0.014 at -1,
        0.036 at -5, 0.064 at -10. A finite value below -24 becomes -24: if such values matter, use float16.
        Measured as KL(true ‖ read back) over the kept tokens and the tail, masses normalised again
    (`TopKLayout.decode`), on four real small teachers and eight synthetic families from flat to peaked: on average
    1.5, 3.0 and 4.6 · 10⁻⁵ nats a position at k = 4, 16 and 64, in the hardest family 9.3 · 10⁻⁵, at the worst single
    position 1.9 · 10⁻⁴. Evenly spaced codes over the same range: 9, 12, 14 · 10⁻⁵, and 9.7 · 10⁻⁴. float16: 4 · 10⁻⁷
    at worst.
        The nearest entry is found by comparison, not by a logarithm, so every machine writes the same bytes.

        Args:
            logp: at most 0 or -inf, any shape (`check_logp`).
    """
    nats = -logp
    guess = np.log1p(nats * np.float32(1 / COMPANDING_SCALE))
    guess *= np.float32(1 / _STEP)
    guess += np.float32(0.5)
    codes = np.minimum(guess, np.float32(NO_MASS - 1)).astype(np.uint8)
    # off by at most one code: borders are halfway in nats, and a logarithm's last digits differ between machines;
    # the first line also takes -inf from the last finite code to NO_MASS
    codes += nats > np.take(_BORDERS[1:], codes)
    codes -= nats <= np.take(_BORDERS, codes)
    return codes


def float16_logp(logp: Floats) -> npt.NDArray[np.float16]:
    """Encode log-probabilities in two bytes each: off by at most 1/2048 of themselves (0.005 nats at -10).

    A finite value below -65504, the least that float16 has, becomes that: a mass of zero either way, but -inf would
    mean probability 0.

    Args:
        logp: at most 0 or -inf, any shape (`check_logp`).
    """
    # + 0.0, because -0.0 and 0.0 are equal but have different bytes
    reachable = np.clip(logp, FLOAT16_LEAST, 0.0) + np.float32(0.0)
    return np.where(np.isneginf(logp), logp, reachable).astype("<f2")


def float16_nats(nats: Floats) -> npt.NDArray[np.float16]:
    """Encode nats from 0 to 65504 in two bytes each: off by at most 1/2048 of themselves."""
    return (np.clip(nats, 0.0, -FLOAT16_LEAST) + np.float32(0.0)).astype("<f2")


def int8_rows(states_PD: Floats) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
    """Encode numbers in one byte each, with one float16 scale a row: x ≈ scale · code, codes from -127 to 127.

    scale is max|x| / 127 rounded *up* to a float16, so no number of the row falls outside. The error is at most half
    the scale, which is at most max|x| / 254 · (1 + 2⁻¹⁰) + 2⁻²⁵. In a row with one number far larger than the
    others, the others are lost; not so with bfloat16.

    Args:
        states_PD: finite.
    Returns:
        (P,) scales, (P, D) codes.
    Raises:
        NumericsError: a row's largest number is beyond 127 · 65504.
    """
    largest_P = np.abs(states_PD).max(axis=1).astype(np.float64)
    wanted_P = largest_P / 127
    if (wanted_P > -FLOAT16_LEAST).any():
        row = int(np.argmax(largest_P))
        raise NumericsError(
            "A hidden state is too large for int8 with a float16 scale.",
            facts=(f"{largest_P[row]:.6g} at position {row} of the row; the limit is {-127 * FLOAT16_LEAST:.6g}",),
            fix="store: bfloat16",
        )
    scale_P = wanted_P.astype(np.float16)
    scale_P = np.where(scale_P < wanted_P, np.nextafter(scale_P, np.float16(np.inf)), scale_P)
    # a row of zeros has scale 0, and gives 0 for any divisor
    divisor_P = np.where(scale_P > 0, scale_P, np.float16(1)).astype(np.float32)
    return scale_P.astype("<f2"), np.rint(states_PD / divisor_P[:, None]).astype(np.int8)


def from_int8_rows(scale_P: npt.NDArray[np.float16], codes_PD: npt.NDArray[np.int8]) -> Floats:
    """Return (P, D) what `int8_rows` stored."""
    return codes_PD.astype(np.float32) * scale_P.astype(np.float32)[:, None]
