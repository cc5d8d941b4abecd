"""FSDP2 on two gloo processes gives the unsharded loss and gradients, whichever way the head is wrapped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "head"), [("untied", "root"), ("untied", "apart"), ("tied", "root")], ids=lambda value: value
)
def test_loss_and_gradients_equal_the_unsharded_ones(tmp_path: Path, kind: str, head: str) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "tests.training.sharded_worker", str(tmp_path), kind, head),
    ]
    searched = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*searched, str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["loss"] == pytest.approx(result["expected"], rel=1e-5)
    assert result["worst"] < 1e-5
