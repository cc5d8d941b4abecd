"""Columns of another trainer's log that mean a part of its loss, and their weights: known by their names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HELD_OUT = frozenset(("eval", "val", "valid", "validation", "test", "dev", "heldout"))
_LOSS = frozenset(("loss", "losses", "kl", "kld", "js", "jsd", "ce", "nll", "mse", "divergence"))
_WEIGHT = frozenset(("weight", "coef", "coeff", "coefficient", "alpha", "lambda", "scale"))
_SETTINGS = frozenset(("lr", "rate", "temperature", "beta", "ratio", "count", "tokens", "num", "step", "type", "name"))
_SUMMARIES = frozenset(("best", "min", "max", "target", "initial", "ema", "std", "var"))
_OTHER = _WEIGHT | _SETTINGS | _SUMMARIES
_SAYS_NOTHING = frozenset(("loss", "losses", "train", "training"))


def parts_of(named: Mapping[str, Any], known: frozenset[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return (part of the training loss -> value, part -> its weight) of one entry; only finite numbers.

    >>> parts_of({"loss": 2.0, "kd_loss": "0.7", "kd_weight": 0.5, "eval_kd_loss": 1.0, "loss_type": "kd"}, {"loss"})
    ({'kd_loss': 0.7}, {'kd_loss': 0.5})

    Args:
        named: plain column -> value.
        known: columns that mean something else.
    """
    numbers = {name: value for name in named if name not in known and (value := _number(named[name])) is not None}
    words = {name: frozenset(name.split("_")) for name in numbers}
    parts = {
        name: value
        for name, value in numbers.items()
        if words[name] & _LOSS and not words[name] & (_HELD_OUT | _OTHER) and not name.startswith("held_out")
    }
    settings = [name for name in numbers if names_weight(name)]
    weights = {
        name: numbers[setting]
        for name in parts
        for setting in settings
        if (stem := words[name] - _SAYS_NOTHING) and stem <= words[setting]
    }
    return parts, weights


def names_weight(name: str) -> bool:
    """Whether a plain column is the weight of a part of the training loss."""
    words = frozenset(name.split("_"))
    return bool(words & _WEIGHT) and not words & _HELD_OUT


def significant_digits(value: float) -> int:
    """Return the digits of a number as it was logged, from the first that is not 0.

    >>> significant_digits(0.0), significant_digits(0.50), significant_digits(0.6931)
    (0, 1, 4)
    """
    return len(re.sub(r"e.*", "", repr(value)).strip("-0.").replace(".", "").lstrip("0"))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
