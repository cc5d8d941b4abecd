"""Lock folders: two processes that write into the same output would mix their lines and count twice.

The kernel holds the lock (flock) for as long as the process lives, so `kill -9` leaves nothing behind. On a file
system without flock a file names the process: the lock is stale if that process of this machine no longer runs. For
another machine this cannot be checked, so its file stays until a user deletes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillab.errors import ConfigError, DataError
from distillab.files import json_object, write_all
from distillab.redaction import redacted

LOCK = ".lock"
IN_USE = "Another process writes into this folder."
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_held: set[int] = set()


def worker_lock(worker: int, workers: int) -> str:
    """Lock the share of one of several workers that fill one cache, so that no share is made twice at once."""
    return f"{LOCK}-{worker}-of-{workers}"


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the lock of a folder for writing; the folder is created if it is missing.

    Args:
        name: of the lock file.
    Raises:
        ConfigError: another process, or this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    descriptor = _taken(path)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, json.dumps(_this_process()).encode())
    _held.add(descriptor)
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:  # a forked child holds nothing
            path.unlink(missing_ok=True)
            _held.discard(descriptor)
            os.close(descriptor)


def require_free(folder: Path, name: str = LOCK) -> None:
    """Check that no process holds a folder. Nothing is written.

    Raises:
        ConfigError: one does.
    """
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    except FileNotFoundError:
        return
    try:
        if not _locked(descriptor, path, wanted=fcntl.LOCK_SH):
            raise _in_use(path)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> int:
    """Return the descriptor of the lock file, locked. Python opens it so that no program it starts inherits it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        try:
            if not _locked(descriptor, path, wanted=fcntl.LOCK_EX):
                raise _in_use(path)
            # the previous process can have deleted the file between our two calls: then this is no lock
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int, path: Path, *, wanted: int) -> bool:
    try:
        fcntl.flock(descriptor, wanted | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return not _lives(_holder(path))
    return True


def _lives(holder: dict[str, object]) -> bool:
    """Return whether the process that a lock file names can still run; for another machine's it is not known."""
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    return _started(int(str(holder.get("pid", 0)))) == holder.get("started")


def _this_process() -> dict[str, object]:
    command = redacted(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "since": now,
        "started": _started(os.getpid()),
    }


def _started(pid: int) -> str | None:
    """Return when a process started, which distinguishes it from a later one of the same number; None: not running."""
    try:
        # the 22nd field is its start; the name before it can hold spaces
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _holder(path: Path) -> dict[str, object]:
    try:
        return json_object(path.read_bytes(), where=str(path))
    except (OSError, DataError):
        return {}  # it is being written


def _in_use(path: Path) -> ConfigError:
    holder = _holder(path)
    facts = [f"{name}: {holder[name]}" for name in ("command", "pid", "host", "since") if name in holder]
    return ConfigError(
        IN_USE,
        where=str(path.parent),
        facts=facts or ["it has not yet written its process id"],
        fix="wait until it has ended, end it, or set another output"
        + (
            f"; if it no longer runs there, delete {path}"
            if holder.get("host", socket.gethostname()) != socket.gethostname()
            else ""
        ),
    )


def _forget() -> None:
    """Close the lock file in a forked child, which must not keep the lock of a parent that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
