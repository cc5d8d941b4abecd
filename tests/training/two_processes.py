"""Run a module of the tests in two processes and read what its process 0 wrote; `leave` is how such a module ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.processes import ended, together

RESULT = "result.json"


def in_processes(module: str, folder: Path, *arguments: str, processes: int = 2) -> dict[str, Any]:
    """The result of `python -m module folder arguments` on so many gloo processes."""
    folder.mkdir(exist_ok=True)
    for code, err in map(ended, together(module, str(folder), *arguments, processes=processes)):
        assert code == 0, err[-3000:]
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
