"""Runs on two processes that torchrun and accelerate start, each of which imports all that it needs: `make prove`.

`test_processes.py` has one death under torchrun, and the stop and the resumption of two forked processes.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from distillab.files import read_json_lines
from tests.processes import ONE_THREAD, Forked, ended, steps_done, wait_for
from tests.runs.test_processes import LAUNCH, on_two, write_recipe

pytestmark = pytest.mark.timeout(1200)


def test_two_processes_of_one_run_stop_after_the_same_step_and_go_on(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = {"steps": 60, "checkpoint_every": 60, "evaluate_every": 20}
    recipe = write_recipe(tiny_world, tmp_path, "run", training=training)
    process = Forked(*LAUNCH, str(recipe))
    wait_for(process, lambda: steps_done(tmp_path / "run") >= 3)
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert code != 0
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("checkpoint-"))
    assert step == steps_done(tmp_path / "run") and f"run: step {step} of 60 is kept" in err, err
    assert {"rng_state_0.pth", "rng_state_1.pth", "seal.json"} <= {path.name for path in kept.iterdir()}
    on_two(recipe)
    measured = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in measured if "loss" in line] == list(range(1, 61))


def test_accelerate_trains_on_two_processes(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    training = {"steps": 2, "evaluate_every": 2}
    recipe = write_recipe(tiny_world, tmp_path, "run", method="sft", training=training)
    words = ("--multi_gpu", "--num_processes=2", "-m", "distillab.cli.main", "train", str(recipe))
    environment = ONE_THREAD | {"ACCELERATE_USE_CPU": "true"}
    code, err = ended(Forked("accelerate.commands.launch", *words, environment=environment))
    assert code == 0, err
    assert "process 0 of 2" in err and "process 1 of 2" in err, err
    assert (tmp_path / "run" / "run.json").exists()
