"""Limit the time of the checks: which are skipped because they would take too long, and the progress."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from distillab.progress import Progress

LIMIT_S = 20.0
# of two CPU cores, and of a GPU; used until a step is measured
_OPERATIONS_A_SECOND = {"cpu": 2e10, "cuda": 4e12}


@dataclass
class Clock:
    """The time that is left for the checks of one call.

    Args:
        limit_s: seconds for all checks together.
        unit_s: seconds of one optimizer step on the few rows; estimated until it is measured.
        progress: shows the current check; None: not shown.
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
        """Set the estimated seconds of a step, until one is measured.

        Args:
            operations: multiplications and additions.
            device: type of the device, cpu or cuda.
        """
        self.unit_s = guessed_s(operations, device)

    def measure_unit(self, seconds: float) -> None:
        """Set the measured seconds of a step; the slowest counts."""
        self.unit_s = max(self.unit_s, seconds) if self._measured else seconds
        self._measured = True

    def begin(self, check: str) -> None:
        """Show that a check begins, and the previous one is finished."""
        if self.progress is not None:
            self.progress.advance(1 if self._check else 0, note=f"now: {check}")
        self._check = check

    def refuses(self, units: float) -> str | None:
        """Return why so many steps take too long; None: there is time."""
        return self.refuses_s(units * self.unit_s)

    def refuses_s(self, seconds: float) -> str | None:
        """Return why so many seconds are too long, with the limit that would suffice; None: there is time."""
        if seconds <= self.left_s:
            return None
        self._refused_s += seconds
        enough = 10 * math.ceil((self.limit_s + self._refused_s) / 10)
        return (
            f"it needs about {seconds:,.0f} s, and {max(0.0, self.left_s):,.0f} s of {self.limit_s:,.0f} are left "
            f"(distillab doctor preflight --seconds {enough})"
        )


def guessed_s(operations: float, device: str) -> float:
    """Return the estimated seconds of so many operations."""
    return operations / _OPERATIONS_A_SECOND.get(device, _OPERATIONS_A_SECOND["cpu"])
