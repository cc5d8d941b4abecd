"""Describe the environment of a run: versions, machine, memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from distillab import __version__


def environment() -> dict[str, str]:
    """Return versions and machine, as a record."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "distillab": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers", "accelerate")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": str(usable_cpus()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }


def usable_cpus() -> int:
    """Return how many CPUs this process may use: on a shared node a scheduler gives it some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status")  # getrusage counts what the parent had when it started this process, too
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
