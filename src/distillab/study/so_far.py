"""Hand on the results of a study while it runs, whenever runs have finished."""

from __future__ import annotations

import time
from collections.abc import Callable

from distillab.errors import DataError, DistillabError
from distillab.library_errors import library_errors
from distillab.records import StudyResults
from distillab.terminal import echo

_PAUSE = 20  # times as long as the last look took, results included: less than a twentieth of the time


class ResultsSoFar:
    """The results of the runs that are finished, each state once.

    Args:
        finished: counts the finished runs.
        assemble: makes the results of them; None: there is nothing to compare yet.
        show: gets the results. An error of it, or of `assemble`, is printed in a line and ends nothing: the results
            are made again when the next run has finished, and at the end.
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
        if number > self._seen and self._shown():
            self._seen = number
        took = time.monotonic() - start
        self._next = start + took + _PAUSE * took

    def _shown(self) -> bool:
        """Show the results, or say why not; return False where there is nothing to compare yet."""
        rule = "The report of the runs so far cannot be made."
        try:
            with library_errors(DataError, rule, where="the study"):
                results = self._assemble()
                if results is not None:
                    self._show(results)
                return results is not None
        except DistillabError as error:
            echo(" ".join(("note:", error.rule, *error.facts, "The study goes on.")), error=True)
            return True
