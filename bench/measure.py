"""Clocks and memory of one process.

Time: a step begins where the one before it ended, so that nothing inside of a training loop escapes. CPU time is
that of all threads, user and system apart: on a noisy machine it says more than the wall, and system time shows
page faults.

Memory: VmHWM, the largest resident size, during the measured steps, minus the resident size just before the first
step (the warm-up ones included, because what they leave behind is needed too: gradients, optimizer state, memory
that the allocator keeps). VmHWM is put back by /proc/self/clear_refs after the warm-up. Where that is not allowed it
counts from the start of the process, and the record says `peak_reset: false`.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20


class Finished(Exception):
    """Ends a training loop from inside after the last measured step."""


@dataclass(frozen=True)
class Step:
    """Seconds that one step took: on the wall, in the program and in the kernel for it (all threads)."""

    wall_s: float
    user_s: float
    sys_s: float

    @property
    def cpu_s(self) -> float:
        """Program and kernel together."""
        return self.user_s + self.sys_s


@dataclass
class Probe:
    """Is told of the start and of the end of every step; raises `Finished` when it has seen enough.

    Args:
        warmup: steps before the measured ones.
        steps: measured steps.
        synchronise: waits until the device is idle; does nothing on a CPU.
        profiler: a torch.profiler.profile, which then sees one further step.
    """

    warmup: int
    steps: int
    synchronise: Callable[[], None] = lambda: None
    profiler: Any = None
    measured: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    base_bytes: int = 0
    peak_bytes: int = 0
    peak_reset: bool = False
    _seen: int = 0
    _last: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def start(self) -> None:
        """Everything is built; the first step comes next."""
        gc.collect()
        self.base_bytes = resident_bytes()
        self._measure_from_here_if_warm()

    def tick(self, loss: float | None = None) -> None:
        """A step has ended.

        Args:
            loss: of the step, kept for comparisons.
        Raises:
            Finished: it was the last one.
        """
        self.synchronise()
        now = _clocks()
        if loss is not None:
            self.losses.append(loss)
        self._seen += 1
        measured = self._seen - self.warmup
        if 0 < measured <= self.steps:
            wall, user, system = (b - a for a, b in zip(self._last, now, strict=True))
            self.measured.append(Step(wall, user, system))
        if measured == self.steps:
            self.peak_bytes = peak_resident_bytes()
            if self.profiler is None:
                raise Finished
            self.profiler.start()
        if measured > self.steps:
            self.profiler.stop()
            raise Finished
        self._last = now
        self._measure_from_here_if_warm()

    def _measure_from_here_if_warm(self) -> None:
        if self._seen == self.warmup:
            self.peak_reset = reset_peak()
            self._last = _clocks()


def repeat(step: Callable[[], float | None], probe: Probe) -> None:
    """Call `step` until the probe has seen enough."""
    probe.start()
    try:
        while True:
            probe.tick(step())
    except Finished:
        return


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, straight between neighbours.

    >>> percentile([4.0, 1.0, 2.0, 3.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summary(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and 90th percentile."""
    return {"min": min(values), "median": percentile(values, 0.5), "p90": percentile(values, 0.9)}


def resident_bytes() -> int:
    """VmRSS: memory of this process that is in RAM."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """VmHWM: the largest VmRSS since the last reset."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let VmHWM count from now on; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except PermissionError:
        return False
    return True


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; memory is measured on Linux only")


def _clocks() -> tuple[float, float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime, usage.ru_stime
