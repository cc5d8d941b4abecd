"""How a program that was interrupted ends: with what it has done kept, and an exit code that says by what.

SIGTERM is what a cluster sends before it takes a machine away; SIGINT is Ctrl-C. Work that can only be kept at certain
points (training: after a step) runs inside `finishing`, asks `requested` there, and raises `Interrupted` once it has
kept what it did. Everywhere else a signal raises `Interrupted` at once. A second Ctrl-C always does.

Handlers are installed by the command line, and by the worker processes of a study; never by importing the package.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal ended the work. No `Exception`: nobody may take it for a failure and go on.

    Args:
        signal: its number.
        kept: what was kept, one sentence each.
    """

    def __init__(self, signal: int, *kept: str) -> None:
        super().__init__(signal, *kept)
        self.signal, self.kept = signal, kept

    @property
    def exit_code(self) -> int:
        """What a shell reports of a program that this signal ended: 143 or 130."""
        return 128 + self.signal


class _State:
    """Of this process: how many `finishing` are open, and the first signal that came in one."""

    depth = 0
    received: int | None = None
    quiet = False


@contextmanager
def handle_signals(*, quiet: bool = False) -> Iterator[None]:
    """Handle SIGTERM and SIGINT as this module says, and leave everything as it was.

    Does nothing outside the main thread, where Python allows no handlers. A signal that the caller's process ignores
    (SIGINT under nohup) stays ignored.

    Args:
        quiet: leave it to another process to say that the signal was heard.
    """
    before = {}
    _State.received, _State.quiet = None, quiet
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in _SIGNALS}
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, _on_signal)
    try:
        yield
    finally:
        _State.received = None
        for one, handler in before.items():
            # None: it was not set from Python, and cannot be set back from here
            if handler is not None:
                signal.signal(one, handler)


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Work that asks `requested` at its next good point; until it has, a first signal is only noted.

    Raises:
        Interrupted: at the end, where a signal came and the work had no point left at which to ask.
    """
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if _State.depth == 0 and _State.received is not None:
        raise Interrupted(_State.received)


@contextmanager
def allow_interrupt() -> Iterator[None]:
    """A part of `finishing` work that a signal may end anywhere.

    Raises:
        Interrupted: one has come before.
    """
    depth, _State.depth = _State.depth, 0
    try:
        if _State.received is not None:
            raise Interrupted(_State.received)
        yield
    finally:
        _State.depth = depth


def interrupt_requested() -> int | None:
    """The signal that asks this process to end; None: none has come."""
    return _State.received


def _on_signal(number: int, frame: FrameType | None) -> None:
    again = _State.received is not None
    if _State.depth == 0 or (again and number == signal.SIGINT):
        raise Interrupted(number)
    if not again:
        _State.received = number
        if not _State.quiet:
            # not print: the signal may have come in the middle of one
            os.write(2, b"\nInterrupted: this step is finished and kept. A second Ctrl-C ends at once.\n")
