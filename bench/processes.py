"""A fresh process for every measurement, one at a time, with its threads and its allocator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.settings import ALLOCATORS, PEER_CASES, Run

PEERS_PYTHON = ROOT / "bench" / ".venv-peers" / "bin" / "python"
# No step that we measure comes near it; a process that hangs must not hold up the rest.
TIMEOUT_S = 900


class Failed(Exception):
    """A measuring process ended without a record."""


def measure_apart(run: Run) -> dict[str, Any]:
    """The record of one case from a process of its own.

    Raises:
        Failed: it ended otherwise; with the end of what it said.
    """
    python = PEERS_PYTHON if run.case in PEER_CASES else Path(sys.executable)
    if not python.exists():
        raise Failed(f"{run.case} needs a separate environment.\n  fix: make bench-peers")
    try:
        done = subprocess.run(
            [str(python), "-m", "bench", "worker", json.dumps(asdict(run))],
            cwd=ROOT,
            env=environment(run),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{run.case} took longer than {TIMEOUT_S} s") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-6:]
        raise Failed(f"{run.case} ({run.size}) ended with code {done.returncode}:\n  " + "\n  ".join(said))
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def environment(run: Run) -> dict[str, str]:
    """The variables of a measuring process: ours alone decide on threads and allocator."""
    decided = {name for settings in ALLOCATORS.values() for name in settings} | {"MALLOC_ARENA_MAX", "LD_PRELOAD"}
    rest = {name: value for name, value in os.environ.items() if name not in decided}
    threads = {name: str(run.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    package = {"PYTHONPATH": str(ROOT / "src")}  # the environment of TRL does not have it
    return {**rest, **threads, **quiet, **package, **ALLOCATORS[run.allocator]}
