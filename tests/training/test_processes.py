"""Two gloo processes must do what one process does (transformers' accelerate launcher starts one in silence)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what this process searches first: a wrong copy of the package, where one is on trial
SEARCHED = [path for path in [os.environ.get("PYTHONPATH", "")] if path]


def _torchrun(folder: Path, processes: int, microbatch: int) -> dict[str, Any]:
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"),
        *("-m", "tests.training.step_worker", str(folder), str(microbatch)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*SEARCHED, str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one = _torchrun(tmp_path / "one", processes=1, microbatch=8)
    two = _torchrun(tmp_path / "two", processes=2, microbatch=2)  # with accumulation too
    assert (one["world"], two["world"]) == (1, 2)
    for a, b in zip(one["reports"], two["reports"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
        assert b["tokens"] == a["tokens"]
        for term, (total, count) in a["terms"].items():
            assert b["terms"][term][0] == pytest.approx(total, rel=1e-5)
            assert b["terms"][term][1] == count
    assert two["parameters"] == pytest.approx(one["parameters"], abs=1e-4)
