"""Jobs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from distillab.study.workers import run_jobs

_STUDY = """
import sys
from functools import partial
from pathlib import Path
from distillab.study.workers import run_jobs
from tests.study.test_workers import hold

if __name__ == "__main__":
    run_jobs([partial(hold, Path(sys.argv[1]))], workers=1)
"""


def hold(folder: Path) -> None:
    """Say which process this is, and stay."""
    (folder / "written").write_text(str(os.getpid()))
    (folder / "written").rename(folder / "pid")
    time.sleep(600)


def fail() -> None:
    raise ValueError("this job fails")


def test_the_error_of_a_job_is_raised() -> None:
    with pytest.raises(ValueError, match="this job fails"):
        run_jobs([fail, partial(os.getpid)], workers=2)


def test_a_worker_ends_with_a_killed_study(tmp_path: Path) -> None:
    study = subprocess.Popen([sys.executable, "-c", _STUDY, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        _until(lambda: (tmp_path / "pid").exists())
        worker = int((tmp_path / "pid").read_text())
        assert _runs(worker)
    finally:
        study.send_signal(signal.SIGKILL)
        study.wait()
    _until(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
