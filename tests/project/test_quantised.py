"""The tests marked `quantised`, in a process that has torchao and bitsandbytes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.conftest import ROOT
from tests.quantised import PACKAGES

FILES = [
    "tests/preflight/test_estimate.py",
    "tests/models/test_adapters.py",
    "tests/runs/test_adapted_run.py",
    "tests/teachers/test_quantised_and_adapted.py",
    "tests/training/test_rollout_teachers.py",
]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # all of them in one
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="make setup installs torchao and bitsandbytes beside the environment")
def test_quantised_models() -> None:
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "quantised", *FILES],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert " skipped" not in found.stdout
