"""Sentences that several checks share."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.preflight.setup import Setup
from distillab.terminal import plural


def scope(setups: Sequence[Setup], what: str) -> str:
    """Return the scope: `what`, and for how many arms."""
    if not setups:
        return "nothing"
    arms = sum(len(setup.names) for setup in setups)
    return f"{plural(len(setups[0].data.lengths), 'row')}, {what}; {plural(arms, 'arm')}, {len(setups)} different"


def left_out(reasons: Sequence[tuple[str, str]]) -> str | None:
    """Return `skipped` of (what, why); None if nothing was left out. Equal reasons are given once."""
    by_reason: dict[str, list[str]] = {}
    for what, why in reasons:
        by_reason.setdefault(why, []).append(what)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items()) or None


def number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}"
