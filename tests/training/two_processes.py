"""Run a module of the tests by torchrun and read what its process 0 wrote; `leave` is how such a module ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
# what this process searches first: a wrong copy of the package, where one is on trial
SEARCHED = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
RESULT = "result.json"


def by_torchrun(module: str, folder: Path, *arguments: str, processes: int = 2) -> dict[str, Any]:
    """The result of `python -m module folder arguments` on so many gloo processes."""
    folder.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"),
        *("-m", module, str(folder), *arguments),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*SEARCHED, str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def leave(folder: Path, result: dict[str, Any]) -> None:
    """Process 0 writes the result, then all end without the interpreter's own end.

    There a thread of torch's aborts the process now and then (torch 2.13, gloo), after all is done.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank == 0:
        (folder / RESULT).write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
    os._exit(0)
