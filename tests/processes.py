"""Programs that tests start and interrupt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 240
# A test suite in the background of a shell (`nohup make test &`) ignores Ctrl-C, and so would every program it starts.
_DEFAULT_SIGNALS = (
    "import os, signal, sys; [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGTERM)]; "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """Python in a process of its own that heeds signals as one does which a user starts; its output is kept."""
    return subprocess.Popen(
        [sys.executable, "-c", _DEFAULT_SIGNALS, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_distillab(*words: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return start_python("-m", "distillab.cli.main", *words)


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Wait until something is so; a process that ends before fails the test. A test that fails leaves none behind."""
    deadline = time.monotonic() + LIMIT_S
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    except BaseException:
        process.kill()
        process.communicate()
        raise


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error, once it has ended."""
    _, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, err


def steps_done(run: Path) -> int:
    """Steps that a run has measured so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"terms"') if path.exists() else 0
