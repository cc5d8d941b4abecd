"""The estimated memory of a run, beside what it takes: `make prove`. `python -m bench.memory` has more set-ups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.memory import ALLOWED, SETUPS, measured


def test_the_memory_of_a_run_is_within_fifteen_percent(materials: Path) -> None:
    """Estimate and run, each in a fresh process."""
    setup = replace(next(one for one in SETUPS if one.name == "58 M with LoRA"), wide=(4, 256), steps=2)
    assert abs(measured(setup, materials).off) < ALLOWED
