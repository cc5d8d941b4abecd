"""Keep derived data between starts: rows that were read, encoded or aligned once are found by a fingerprint.

The store is the folder `DISTILLAB_CACHE`, by default `$XDG_CACHE_HOME/distillab` or `~/.cache/distillab`. It holds
`PART/FINGERPRINT/`, and each such folder a `sealed.json` with the size, time of change and hash of its other files. Any
of it can be deleted at any time: it is made again when it is needed. After an entry is made, the longest unused ones
are removed until the store has no more than `DISTILLAB_CACHE_GIB` (default 50); those in use are locked, and stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from distillab.errors import ConfigError, DataError, StorageError
from distillab.files import new_folder, read_json, write_json
from distillab.terminal import echo

_SEAL = "sealed.json"
_BLOCK_BYTES = 1 << 20
_MOST_GIB = "50"
_in_use: dict[Path, int] = {}
"""Entries that this process reads, with the descriptors whose locks keep them from being removed."""


def store_root() -> Path:
    """Return the folder of the store; it need not exist."""
    if given := os.environ.get("DISTILLAB_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distillab"


def fingerprint_of(*facts: object) -> str:
    """Return a fingerprint of JSON values, for a name in the store."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def stored(part: str, fingerprint: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder `part/fingerprint` of the store, filled if it is not there.

    One process fills it, others on this machine wait for it. On file systems without locks each fills its own, and
    the first one that is complete is kept. A damaged folder is reported and made again. Until this process ends, no
    other one removes it.

    Args:
        fill: writes the files of the folder that it gets.
    Raises:
        StorageError: the store cannot be written.
        ConfigError: its size is no number.
    """
    folder = store_root() / part / fingerprint
    most = _most_bytes()
    _use(folder)
    if not folder.exists() or damage(folder) is not None:
        with _one_at_a_time(folder):
            fault = damage(folder) if folder.exists() else None
            if fault is not None:
                echo(f"{folder} is damaged and is made again: {fault}", error=True)
            if fault is not None or not folder.exists():
                _make(folder, fill)
                _remove_oldest(folder, most)
    with suppress(OSError):  # of a store that can only be read
        os.utime(folder)  # the time of its last use
    return folder


def damage(folder: Path) -> str | None:
    """Return how the files of a folder differ from its seal, or None; contents are read where a time differs."""
    try:
        sealed = read_json(folder / _SEAL)
        found = [_facts(folder / name, known=(size, changed, digest)) for name, size, changed, digest in sealed]
        for (name, size, _, digest), (_, now, _, other) in zip(sealed, found, strict=True):
            if (size, digest) != (now, other):
                return f"{name} has {now:,} bytes with hash {other}, sealed were {size:,} with {digest}"
        if found != sealed:  # it was copied
            with suppress(OSError, StorageError):
                write_json(folder / _SEAL, found)
    except (DataError, OSError, TypeError, ValueError) as error:
        return str(error).replace("\n", ",")
    return None


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    try:
        with new_folder(folder, replace=folder.exists()) as temporary:
            fill(temporary)
            write_json(temporary / _SEAL, [_facts(file) for file in sorted(temporary.iterdir())])
    except OSError as error:
        if not folder.exists() or damage(folder) is not None:  # else another process was faster
            raise _not_writable(folder, error) from error


def _facts(file: Path, *, known: tuple[int, int, str] | None = None) -> list[Any]:
    """Return name, size, time of change and hash; the hash that is known for the same size and time is not computed."""
    status = file.stat()
    if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
        return [file.name, *known]
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return [file.name, status.st_size, status.st_mtime_ns, digest.hexdigest()]


def _most_bytes() -> float:
    given = os.environ.get("DISTILLAB_CACHE_GIB", _MOST_GIB)
    try:
        most = float(given) * 2**30
    except ValueError:
        most = -1.0
    if not most >= 0:
        raise ConfigError(
            "The size of the store is a number of GiB.",
            where="the environment variable DISTILLAB_CACHE_GIB",
            facts=[f"given: {given!r}"],
            fix=f"write DISTILLAB_CACHE_GIB={_MOST_GIB}, or unset it",
        )
    return most


def _remove_oldest(made: Path, most: float) -> None:
    """Remove entries that no process uses, the longest unused first, until the store is not above a size."""
    entries = []
    for seal in made.parent.parent.glob(f"*/[!.]*/{_SEAL}"):
        with suppress(OSError):  # another process removes it
            size = sum(file.stat().st_size for file in seal.parent.iterdir())
            entries.append((seal.parent.stat().st_mtime_ns, size, seal.parent))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= most:
            break
        if folder != made and _removed(folder):
            total -= size


def _use(folder: Path) -> None:
    """Keep an entry from being removed until this process ends."""
    if folder not in _in_use:
        with suppress(OSError):  # of a store that can only be read, or without locks
            folder.parent.mkdir(parents=True, exist_ok=True)
            _in_use[folder] = os.open(_lock_file(folder, "used"), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(_in_use[folder], fcntl.LOCK_SH)


def _removed(folder: Path) -> bool:
    """Remove an entry, unless it is in use or that cannot be known; return whether it was removed."""
    try:
        lock = os.open(_lock_file(folder, "used"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock_file(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        with suppress(OSError):  # without locks every process fills its own folder, and one is kept
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock_file(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}.{purpose}")


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        "The store of read and encoded rows cannot be written.",
        where=str(folder),
        facts=[str(error)],
        fix="set the environment variable DISTILLAB_CACHE to a folder that can be written",
    )
