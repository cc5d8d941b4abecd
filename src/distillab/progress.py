"""Show progress: a bar on a terminal, plain lines elsewhere, nothing for steps under two seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from distillab.redaction import redacted
from distillab.terminal import echo, visible

_T = TypeVar("_T")
_QUIET_S = 2.0
_PLAIN_EVERY_S = 10.0
_plain = False


def plain_lines() -> None:
    """Print plain lines from now on, also on a terminal."""
    global _plain
    _plain = True


class Progress:
    """Count units of work, and show count, rate and time left on standard error.

    Args:
        label: what is being done.
        total: how many units there are in all.
        unit: name of a unit.
        done: units that an earlier, interrupted run has done already.
    """

    def __init__(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = visible(redacted(label)), total, unit, done
        self._first = done
        self._start = self._last = time.monotonic()
        self._bar: tqdm | None = None
        self._shown = False
        # some containers have a terminal without a width, on which a bar shows nothing
        self._terminal = not _plain and sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
        # under torchrun only the first process prints
        self._silent = os.environ.get("RANK", "0") != "0"

    def __enter__(self) -> Self:
        if self._terminal and not self._silent:
            self._bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.label,
                unit=f" {self.unit}",
                delay=_QUIET_S,
                leave=True,
                disable=False,
            )
        return self

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done; `note` is shown beside the count."""
        self.done += units
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(visible(note), refresh=False)
            self._bar.update(units)
            return
        now = time.monotonic()
        if now - self._last >= (_PLAIN_EVERY_S if self._shown else _QUIET_S):
            self._line(now, note)

    def say(self, text: str) -> None:
        """Print a line that stays, whatever is shown of the progress."""
        if not self._silent:
            line = f"{self.label}: {text}"
            if self._bar is None:
                echo(line, error=True)
            else:
                self._bar.write(visible(redacted(line)), file=sys.stderr)

    def _line(self, now: float, note: str) -> None:
        if self._silent:
            return
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        text = f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, {left:.0f} s left"
        echo(text + (f", {note}" if note else ""), error=True)
        self._last, self._shown = now, True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown and error is None:
            took = time.monotonic() - self._start
            echo(f"{self.label}: {self.done} {self.unit} in {took:.1f} s", error=True)


def track(items: Iterable[_T], label: str, *, total: int, unit: str) -> Iterator[_T]:
    """Yield the items and show the progress through them."""
    with Progress(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()
