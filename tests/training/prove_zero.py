"""DeepSpeed ZeRO-2 and ZeRO-3 on two CPU processes against plain training: figures, weights, interruption and resuming.

    make prove-parallel ARGS="-k zero"

DeepSpeed is not in the environment itself but beside it: accelerate imports it wherever it is installed, which makes
every process slower, and it prints.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distillab.files import read_json_lines
from tests.conftest import ROOT
from tests.processes import ONE_THREAD, steps_done
from tests.runs.test_processes import on_two, weights, write_recipe

PACKAGES = Path(sys.prefix) / "parallel" / "deepspeed"
TRAINING = {"steps": 12, "evaluate_every": 6, "gradient_shares_every": 0}
pytestmark = pytest.mark.skipif(not PACKAGES.is_dir(), reason=f"DeepSpeed is not in {PACKAGES}")


def _start(recipe: Path) -> subprocess.Popen[str]:
    paths = [str(PACKAGES), str(ROOT / "src"), str(ROOT)]
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "distillab.cli.main", "train"]
    return subprocess.Popen(
        [sys.executable, "-m", *launch, str(recipe)],
        env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths), "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _train(recipe: Path) -> None:
    process = _start(recipe)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-4000:]


def _steps(run: Path) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in read_json_lines(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_equals_plain_training_and_resumes(tiny_world: dict[str, Any], tmp_path: Path, stage: int) -> None:
    plain = write_recipe(tiny_world, tmp_path, "plain", training=TRAINING)
    on_two(plain)
    recipes = [
        write_recipe(tiny_world, tmp_path, name, training={**TRAINING, "deepspeed": stage})
        for name in ("whole", "broken")
    ]
    _train(recipes[0])
    wanted, found = (_steps(tmp_path / name) for name in ("plain", "whole"))
    gaps = [abs(b / a - 1) for one, other in zip(wanted, found, strict=True) for a, b in zip(one, other, strict=True)]
    apart = float((weights(tmp_path / "whole") - weights(tmp_path / "plain")).abs().max())
    print(f"ZeRO-{stage}: loss and gradient norm differ by {max(gaps):.2g} relative, weights by {apart:.2g}")
    assert max(gaps) < 1e-6 and apart < 1e-6

    process = _start(recipes[1])
    while steps_done(tmp_path / "broken") < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert re.search(r"step \d+ of 12 is kept", out), out[-4000:]
    _train(recipes[1])
    assert steps_done(tmp_path / "broken") == TRAINING["steps"]
    assert bool((weights(tmp_path / "broken") == weights(tmp_path / "whole")).all())
