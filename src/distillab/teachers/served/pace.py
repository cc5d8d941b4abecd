"""How many requests run at once, and how long a failed one waits.

Source: additive increase, multiplicative decrease (Chiu and Jain 1989); exponential back-off with jitter.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST = 4
_SUCCESSES_FOR_ONE_MORE = 20
_SHORTEST_S, _LONGEST_S = 0.5, 60.0


class Gate:
    """Lets a changing number of requests run: one more after 20 successes, half after a refusal; never above `most`."""

    def __init__(self, most: int) -> None:
        self._most, self._allowed = most, min(_FIRST, most)
        self._running = self._successes = 0
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        """Requests that may run at once now."""
        return self._allowed

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait until one more request may run, and count it until the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._allowed)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def succeeded(self) -> None:
        """Count an answer."""
        with self._changed:
            self._successes += 1
            if self._successes >= _SUCCESSES_FOR_ONE_MORE and self._allowed < self._most:
                self._allowed, self._successes = self._allowed + 1, 0
                self._changed.notify_all()

    def refused(self) -> None:
        """Halve the number after the server said that it is too much."""
        with self._changed:
            self._allowed, self._successes = max(1, self._allowed // 2), 0


def back_off_s(failures: int, *, random_01: float | None = None) -> float:
    """Return the seconds to wait after so many failures of a request: half of it is jitter.

    >>> [back_off_s(n, random_01=1.0) for n in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 60.0]
    """
    whole = min(_LONGEST_S, _SHORTEST_S * 2.0 ** min(failures - 1, 20))
    jitter = random.random() if random_01 is None else random_01
    return whole * (0.5 + 0.5 * jitter)


def retry_after_s(header: str | None, *, now_s: float | None = None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None if it has neither.

    >>> retry_after_s("2"), retry_after_s("soon"), retry_after_s("-1")
    (2.0, None, None)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = max(0.0, then.timestamp() - (time.time() if now_s is None else now_s))
    return seconds if 0 <= seconds < float("inf") else None
