"""How long an examination may take, what is left out because it would take longer, and a sign that it goes on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from distillab.progress import Progress

LIMIT_S = 60.0
# what two cores of a CPU do in a second, and a GPU; before anything was measured
_OPERATIONS_A_SECOND = {"cpu": 2e10, "cuda": 4e12}


@dataclass
class Clock:
    """Seconds that are left of all that one call examines.

    Args:
        limit_s: for everything together.
        unit_s: seconds of one optimizer step on the few rows; guessed until it was measured.
        progress: shows which check is at work; None: nothing does.
    """

    limit_s: float = LIMIT_S
    unit_s: float = 0.0
    progress: Progress | None = None
    _begun: float = field(default_factory=time.monotonic)
    _measured: bool = False
    _check: str = ""
    _refused_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.limit_s - (time.monotonic() - self._begun)

    def guess_unit(self, operations: float, device: str) -> None:
        """Give the seconds of a step, until one was measured.

        Args:
            operations: multiplications and additions.
            device: type of the device, cpu or cuda.
        """
        self.unit_s = guessed_s(operations, device)

    def measure_unit(self, seconds: float) -> None:
        """Seconds of a step; the slowest that was measured counts."""
        self.unit_s = max(self.unit_s, seconds) if self._measured else seconds
        self._measured = True

    def begin(self, check: str) -> None:
        """A check begins, and the one before it is done."""
        if self.progress is not None:
            self.progress.advance(1 if self._check else 0, note=f"now: {check}")
        self._check = check

    def refuses(self, units: float) -> str | None:
        """Why so many steps are not made; None where there is time for them."""
        return self.refuses_s(units * self.unit_s)

    def refuses_s(self, seconds: float) -> str | None:
        """Why so many seconds are not spent, and with which limit they and all before would be; None where they are
        left."""
        if seconds <= self.left_s:
            return None
        self._refused_s += seconds
        enough = 10 * math.ceil((self.limit_s + self._refused_s) / 10)
        return (
            f"it would take about {seconds:,.0f} s more, and of {self.limit_s:,.0f} s {max(0.0, self.left_s):,.0f} are "
            f"left (distillab doctor selftest --seconds {enough})"
        )


def guessed_s(operations: float, device: str) -> float:
    """Seconds of so many operations, before anything was measured."""
    return operations / _OPERATIONS_A_SECOND.get(device, _OPERATIONS_A_SECOND["cpu"])
