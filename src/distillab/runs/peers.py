"""Watch the other processes of a run: when one of them dies, the others end with the reason.

Without this they wait for it in the next sum over all processes: minutes with NCCL, and then with an unclear error.
Each process is told at once when another of its machine ends (Linux: a file descriptor of the process), and reads once
a second whether a process of another machine has found one that did. What a process leaves behind (nothing, when it was
killed) is in the store by which torch's processes have found each other.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.distributed.distributed_c10d import _get_default_store

from distillab.errors import DistillabError, ProcessLost
from distillab.interruption import Interrupted
from distillab.processes import Processes
from distillab.terminal import echo

_GRACE_S = 3.0  # that a process gets to end with its own error, or regularly
_SHORT_S = 0.2
_LOOK_EVERY_MS = 1000
_INTERRUPTED = "interrupted by"
_LOST = "lost"
_launches = itertools.count()


class _Step:
    """The last finished optimizer step of this process, for the message."""

    last = 0


def note_step(step: int) -> None:
    """Remember the last finished optimizer step."""
    _Step.last = step


@contextmanager
def watched_processes() -> Iterator[None]:
    """End this process if another one of the run ends inside the block other than regularly. Blocks can be nested.

    Raises:
        ProcessLost: another process ended, and what this one was doing with it failed. Where it is stuck instead, the
            message is printed, and the process ends with exit code 1.
    """
    processes = Processes.current()
    if processes.count == 1:
        yield
        return
    watch = _Watch(processes)
    watch.start()
    left, code = "", 1
    try:
        yield
    except BaseException as error:
        left = _described(error)
        lost = watch.reason(error)
        if lost is None:
            code = error.exit_code if isinstance(error, Interrupted) else 1
            raise
        raise lost from error
    finally:
        watch.leave(left, code)


class _Watch(threading.Thread):
    """Watches until `leave`. Every process must make one, in the same order."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(daemon=True, name="distillab-peers")
        self._store = _get_default_store()
        self._name, self._processes = f"distillab/{next(_launches)}", processes
        self._found, self._left = threading.Event(), threading.Event()
        self._woken, self._waker = socket.socketpair()
        self._lost: ProcessLost | None = None
        self._code = 1
        self._peers: dict[int, tuple[int, int]] = {}  # descriptor of a process -> its number and id
        here = {"host": socket.gethostname(), "space": _process_space(), "pid": os.getpid()}
        self._set(f"at/{processes.number}", json.dumps(here))
        for number in set(range(processes.count)) - {processes.number}:
            there = json.loads(self._store.get(f"{self._name}/at/{number}"))
            if {**there, "pid": here["pid"]} == here and hasattr(os, "pidfd_open"):
                self._peers[os.pidfd_open(there["pid"])] = (number, there["pid"])

    def run(self) -> None:
        """Wait for a death; then end this process, unless it ends by itself."""
        try:
            text = self._wait()
        except RuntimeError:  # the store is gone: with the launcher, or with process 0 where that holds it
            text = "the launcher, or process 0, has ended"
        finally:
            self._close()
        if text is None:
            return
        self._lost = ProcessLost(
            "Another process of this run has ended, so this one stopped.",
            where=f"process {self._processes.number} of {self._processes.count} on {socket.gethostname()}, "
            f"after step {_Step.last}",
            facts=[text],
            fix="start the same command on all machines again: it resumes from the last checkpoint",
        )
        self._found.set()
        if not self._left.wait(_GRACE_S):  # it waits for the dead one
            echo(f"{type(self._lost).__name__}: {self._lost}", error=True)
        else:
            time.sleep(_GRACE_S)  # torch can hang when it takes leave of the dead one
        os._exit(self._code)

    def reason(self, error: BaseException) -> ProcessLost | None:
        """Return which process was lost, if that is why this one has an error."""
        if isinstance(error, RuntimeError):  # a broken connection, which can be noticed before the death
            self._found.wait(_GRACE_S)
            return self._lost
        # the launcher sends SIGTERM to the others when one has died; and all are interrupted by a signal to all
        by_launcher = isinstance(error, Interrupted) and self._found.wait(_SHORT_S) and self._lost is not None
        return self._lost if by_launcher and _INTERRUPTED not in str(self._lost) else None

    def leave(self, error: str, code: int) -> None:
        """End the watch, and its thread: torch aborts a process that exits while a thread asks the store.

        Args:
            error: by which this process ends; "": it goes on regularly.
            code: the exit code of the process then.
        """
        self._code = code
        with suppress(RuntimeError):  # the store can be gone
            self._set(f"ended/{self._processes.number}", error)
        self._left.set()
        self._waker.close()
        deadline = time.monotonic() + _GRACE_S  # the store of another machine can be silent
        while self.is_alive() and not self._found.is_set() and time.monotonic() < deadline:
            self.join(_SHORT_S)

    def _wait(self) -> str | None:
        """Return who died and why, or None once this process has left."""
        poll = select.poll()
        for descriptor in (*self._peers, self._woken.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            changed = {descriptor for descriptor, _ in poll.poll(_LOOK_EVERY_MS)}
            if self._left.is_set():
                return None
            for descriptor in changed & self._peers.keys():
                number, pid = self._peers.pop(descriptor)
                exit_text = _exit_of(pid)  # at once: it is forgotten when the launcher has read it
                poll.unregister(descriptor)
                os.close(descriptor)
                key = f"ended/{number}"
                reason = self._get(key) if self._has(key) else exit_text
                if reason:
                    text = f"process {number} (id {pid} on {socket.gethostname()}) has ended: {reason}"
                    self._set(_LOST, text)
                    return text
            if self._has(_LOST):
                return self._get(_LOST)

    def _close(self) -> None:
        self._woken.close()
        for descriptor in self._peers:
            os.close(descriptor)

    def _set(self, key: str, text: str) -> None:
        self._store.set(f"{self._name}/{key}", text)

    def _has(self, key: str) -> bool:
        return bool(self._store.check([f"{self._name}/{key}"]))

    def _get(self, key: str) -> str:
        return bytes(self._store.get(f"{self._name}/{key}")).decode()


def _described(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"{_INTERRUPTED} {signal.Signals(error.signal).name}"
    text = error.rule if isinstance(error, DistillabError) else str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"


def _process_space() -> str:
    """Return what tells whether a process id of another process means the same here (containers have their own)."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _exit_of(pid: int) -> str:
    """Return how a process ended that has just died: its signal or exit code, as long as its parent has not read it."""
    try:
        code = os.waitstatus_to_exitcode(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[49]))
    except (OSError, ValueError, IndexError):
        return "without a message; the launcher, or the kernel's log (out of memory), names the signal"
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
