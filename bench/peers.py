"""Before another trainer is timed: does it do the same step?"""

from __future__ import annotations

from typing import Any

from bench.processes import Failed, measure_apart
from bench.settings import SAME_STEPS, Run

# Relative; the largest that is accepted in any of the first steps.
TOLERANCE = 1e-3
_STEPS = 3


def require_equal_loss() -> str:
    """Same weights, same ids, and then the same loss in each of the first steps: a line a pair that says how equal.

    Raises:
        Failed: a step could not be made; or see `compare`.
    """
    lines = []
    for *cases, size in SAME_STEPS:
        ours, theirs = (measure_apart(Run(case, size=size, warmup=0, steps=_STEPS)) for case in cases)
        lines.append(f"{' and '.join(cases)}: {compare(ours, theirs)}")
    return "\n".join(lines)


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Hold two records against each other. Equal losses after the first step mean equal gradients and updates too.

    Raises:
        Failed: the two start from different weights or ids, or their losses differ.
    """
    if ours["digest"] != theirs["digest"]:
        raise Failed(f"Weights or ids differ: ours {ours['digest']}, TRL's {theirs['digest']}")
    pairs = list(zip(ours["losses"], theirs["losses"], strict=True))
    differences = [abs(a - b) / abs(b) for a, b in pairs]
    worst = max(differences)
    text = ", ".join(f"{a:.6f} / {b:.6f}" for a, b in pairs)
    if not all(difference <= TOLERANCE for difference in differences):  # a loss that is no number is none of these
        raise Failed(f"The losses of the first steps differ by {worst:.1e} (ours / TRL): {text}")
    return f"Losses of the first steps, ours / TRL: {text}; largest relative difference {worst:.1e}"
