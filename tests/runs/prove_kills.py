"""Twenty deaths of a run on two processes: it ends with the weights of a run that nothing interrupted.

    make prove-parallel ARGS="-k kills"

Not among the tests that every change runs: it takes minutes.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import torch

from tests.processes import ended, steps_done, together, wait_for
from tests.runs.test_processes import on_two, weights, write_recipe

KILLS, STEPS = 20, 132


def test_twenty_deaths_change_nothing(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """All are killed, one is killed, all get SIGTERM, one gets SIGUSR1: by turns, at moments that a seed decides."""
    training = {"steps": STEPS, "evaluate_every": 44, "checkpoint_every": 2}
    whole, broken = (write_recipe(tiny_world, tmp_path, name, training=training) for name in ("whole", "broken"))
    on_two(whole)
    draw, slowest = random.Random(0), 0.0
    for death in range(KILLS):
        processes = together("distillab.cli.main", "train", str(broken))
        reached = steps_done(tmp_path / "broken") if death else 0
        # the measurements after the last checkpoint are removed at the start
        wait_for(processes[0], lambda: 0 < steps_done(tmp_path / "broken") <= max(1, reached))  # noqa: B023
        goal = steps_done(tmp_path / "broken") + draw.choice([2, 3])
        wait_for(processes[0], lambda: steps_done(tmp_path / "broken") >= goal)  # noqa: B023
        time.sleep(draw.random() * 0.05)
        number = signal.SIGKILL if death % 4 < 2 else signal.SIGTERM if death % 4 == 2 else signal.SIGUSR1
        since = time.monotonic()
        for process in processes if death % 2 == 0 else processes[1:]:
            process.send_signal(number)
        results = [ended(process) for process in processes]
        slowest = max(slowest, time.monotonic() - since)
        assert all(code != 0 for code, _ in results), results
        assert not (tmp_path / "broken" / "run.json").exists()
        print(
            f"death {death + 1}: {number.name}, {steps_done(tmp_path / 'broken')} steps, exit codes",
            [c for c, _ in results],
        )
    on_two(broken)
    assert steps_done(tmp_path / "broken") == STEPS
    assert torch.equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    print(f"the slowest end took {slowest:.1f} s")
    assert slowest < 10
