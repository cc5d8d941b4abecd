"""Hand on the results of a study while it runs, whenever runs have finished."""

from __future__ import annotations

import time
from collections.abc import Callable

from distillab.records import StudyResults

_LOOK_EVERY_S = 1.0
_PAUSE = 20  # times as long as the last results took to make: less than a twentieth of the time


class ResultsSoFar:
    """The results of the runs that are finished, each state once.

    Args:
        finished: counts the finished runs.
        assemble: makes the results of them; None: there is nothing to compare yet.
        show: gets the results.
    """

    def __init__(
        self,
        finished: Callable[[], int],
        assemble: Callable[[], StudyResults | None],
        show: Callable[[StudyResults], None],
    ) -> None:
        self._finished, self._assemble, self._show = finished, assemble, show
        self._seen, self._next = 0, 0.0

    def update(self) -> None:
        """Show the results if runs have finished since, and the last time is long enough ago."""
        start = time.monotonic()
        if start < self._next:
            return
        number = self._finished()
        if number > self._seen and (results := self._assemble()) is not None:
            self._show(results)
            self._seen = number
        took = time.monotonic() - start
        self._next = start + took + max(_LOOK_EVERY_S, _PAUSE * took)
