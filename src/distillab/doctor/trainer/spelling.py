"""Keys that a trainer passes over because they are misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

_NEAR = 0.88


def misspelt(values: Mapping[str, Any], *, known: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return (key, the known key that it is nearly) of keys that are not known.

    A trainer has hundreds of keys, and only some are known here: a key that resembles none of these is not judged.

    >>> misspelt({"learning_rat": 1, "bf16": True, "lr": 1}, known=["learning_rate", "sequence_len"])
    (('learning_rat', 'learning_rate'),)
    """
    names = sorted(known)
    near = ((key, difflib.get_close_matches(key, names, n=1, cutoff=_NEAR)) for key in values if key not in names)
    return tuple((key, found[0]) for key, found in near if found)
