"""How long a self-test may take, and what is left out because it would take longer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

LIMIT_S = 60.0


@dataclass
class Clock:
    """Seconds that are left.

    Args:
        limit_s: for all probes together.
        unit_s: seconds of one optimizer step on the few rows, once it was measured.
    """

    limit_s: float = LIMIT_S
    unit_s: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.limit_s - (time.monotonic() - self._begun)

    def refuses(self, units: float) -> str | None:
        """Why so many steps are not made; None where there is time for them."""
        return self.refuses_s(units * self.unit_s)

    def refuses_s(self, seconds: float) -> str | None:
        """Why so many seconds are not spent; None where they are left."""
        if seconds <= self.left_s:
            return None
        return (
            f"it would take about {seconds:,.0f} s more, and of {self.limit_s:,.0f} s {max(0.0, self.left_s):,.0f} are "
            "left (distillab doctor selftest --seconds N)"
        )
