"""Jobs in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from distillab.runs.environment import usable_cpus
from distillab.study.workers import run_jobs
from tests.processes import LIMIT_S, Forked, ended, wait_for


def fail() -> None:
    raise ValueError("this job fails")


def test_the_error_of_a_job_is_raised() -> None:
    with pytest.raises(ValueError, match="this job fails"):
        run_jobs([fail, partial(os.getpid)], workers=2)


def note_threads(path: Path) -> None:
    path.write_text(str(torch.get_num_threads()))


def test_workers_share_the_cpus_unless_the_threads_of_a_process_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "threads"
    for given, expected in ((None, usable_cpus()), ("1", torch.get_num_threads())):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        run_jobs([partial(note_threads, noted)], workers=1)
        assert noted.read_text() == str(expected)


@pytest.mark.slow
def test_a_worker_ends_with_a_killed_study(tmp_path: Path) -> None:
    study = Forked("tests.study.holding_study", str(tmp_path))
    wait_for(study, (tmp_path / "pid").exists)
    worker = int((tmp_path / "pid").read_text())
    assert _runs(worker)
    study.kill()
    study.communicate()
    _until(lambda: not _runs(worker))


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_study_ends_it_as_one_to_the_first(tmp_path: Path) -> None:
    """As a cluster sends it."""
    study = Forked("tests.study.holding_study", str(tmp_path))
    wait_for(study, (tmp_path / "pid").exists)
    os.killpg(study.pid, signal.SIGTERM)
    code, err = ended(study)
    assert (code, err) == (
        143,
        "\nInterrupted: finishing this step, then saving. Press Ctrl-C again to stop at once.\n",
    )
    assert (tmp_path / "saved").exists() and not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(condition: Callable[[], bool], seconds: float = LIMIT_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
