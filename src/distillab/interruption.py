"""Handle SIGTERM, SIGUSR1, SIGHUP and Ctrl-C: finish the step, save, and exit with the signal's exit code.

SIGTERM is what a cluster sends before it takes a machine away, SIGUSR1 what Slurm sends with `--signal=USR1@120`,
SIGHUP comes when a terminal is closed or its connection is lost, and SIGINT is Ctrl-C. Work that can only be saved at
certain points (training: after a step) runs inside `defer_interrupt`, checks `interrupt_requested` there, and raises
`Interrupted` after saving. Everywhere else a signal raises `Interrupted` at once. A second Ctrl-C always does.

Handlers are installed by the command line and by the worker processes of a study, never by importing the package.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal ended the work. A BaseException, so that no handler of failures catches it.

    Args:
        signal: its number.
        kept: what was saved, one sentence each.
    """

    def __init__(self, signal: int, *kept: str) -> None:
        super().__init__(signal, *kept)
        self.signal, self.kept = signal, kept

    @property
    def exit_code(self) -> int:
        """Return the exit code of a program that this signal ended: 143, 138, 129 or 130."""
        return 128 + self.signal


class _State:
    """State of this process: the number of open `defer_interrupt` blocks, and the first signal inside one."""

    depth = 0
    received: int | None = None
    quiet = False
    sent: int | None = None


@contextmanager
def handle_signals(*, quiet: bool = False, sent: int | None = None) -> Iterator[None]:
    """Handle the signals inside the block, and restore the old handlers after it.

    Does nothing outside the main thread, where Python allows no handlers. An ignored signal (SIGINT under nohup, or in
    the background of a script) stays ignored.

    Args:
        quiet: do not print that the signal was received; another process does.
        sent: the signal by which a program, not a person, ends this process. It is handled where it was ignored too,
            and a second one changes nothing: a program can send it twice.
    """
    _State.received, _State.quiet, _State.sent = None, quiet, sent
    with restored_handlers():
        if threading.current_thread() is threading.main_thread():
            for one in _SIGNALS:
                if one == sent or signal.getsignal(one) is not signal.SIG_IGN:
                    signal.signal(one, _on_signal)
        try:
            yield
        finally:
            _State.received = None


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the handlers of these signals after the block, in the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            # None: it was not set from Python and cannot be restored from here
            if handler is not None:
                signal.signal(one, handler)


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Only record a first signal inside the block, which checks `interrupt_requested` where it can save.

    Raises:
        Interrupted: at the end of the block, if a signal came after the last check.
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
    """Allow a signal to end this part of a `defer_interrupt` block at any point.

    Raises:
        Interrupted: a signal came before.
    """
    depth, _State.depth = _State.depth, 0
    try:
        if _State.received is not None:
            raise Interrupted(_State.received)
        yield
    finally:
        _State.depth = depth


def interrupt_requested() -> int | None:
    """Return the signal that this process received inside `defer_interrupt`, or None."""
    return _State.received


def _leave_terminal() -> None:
    """Write nothing more to a terminal that is gone: each line would be an error in the middle of the work."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    again = _State.received is not None
    if again and number == _State.sent:
        return
    if _State.depth == 0 or (again and number == signal.SIGINT):
        if number == _State.sent:
            _State.received = number
        raise Interrupted(number)
    if not again:
        _State.received = number
        if not _State.quiet:
            # not print: the signal can come in the middle of one
            os.write(2, b"\nInterrupted: finishing this step, then saving. Press Ctrl-C again to stop at once.\n")
