"""One case in this process: builds it, runs it, prints one JSON line.

The process is fresh, has its threads and its allocator set from outside (`processes.py`), and ends after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

from bench.machine import commit, machine, versions
from bench.measure import Probe
from bench.settings import CASES, Run


def measure(run: Run) -> dict[str, Any]:
    """The record of one case, measured here and now."""
    import torch
    import torch._dynamo  # optimizers load it in their first step; it is no part of anyone's training memory

    from bench import gpu

    torch.set_num_threads(run.threads)
    on_gpu = run.device == "cuda"
    probe = Probe(
        warmup=run.warmup,
        steps=run.steps,
        synchronise=torch.cuda.synchronize if on_gpu else lambda: None,
        profiler=gpu.profiler(run.device) if run.profile else None,
    )
    about = machine()  # the load before we add to it
    _function(run.case)(run, probe)
    record: dict[str, Any] = {
        **asdict(run),
        "tokens": run.shape.tokens,
        "steps_s": [asdict(step) for step in probe.measured],
        "losses": probe.losses,
        "base_bytes": probe.base_bytes,
        "training_bytes": max(0, probe.peak_bytes - probe.base_bytes),
        "peak_reset": probe.peak_reset,
        "machine": about,
        "versions": versions(),
        "commit": commit(),
        **probe.facts,
    }
    if run.size.startswith("llama"):
        record.update(gpu.figures(run, [step.wall_s for step in probe.measured]))
    if run.profile:
        record["top_ten"] = gpu.top_ten(probe.profiler, run.device)
    return record


def main(text: str) -> None:
    """Measure the run that `text` (JSON) describes, and print its record as the last line."""
    print(json.dumps(measure(Run(**json.loads(text)))), flush=True)


def _function(case: str) -> Callable[[Run, Probe], None]:
    module, name = CASES[case].split(":")
    function: Callable[[Run, Probe], None] = getattr(import_module(module), name)
    return function
