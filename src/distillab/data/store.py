"""Keep derived data between starts: rows that were read, encoded or aligned once are found by a fingerprint.

The store is the folder `DISTILLAB_CACHE`, by default `$XDG_CACHE_HOME/distillab` or `~/.cache/distillab`. It holds
`PART/FINGERPRINT/`, and each such folder a `sealed.json` with the size and hash of its other files. Any of it can be
deleted at any time: it is made again when it is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from distillab.errors import DataError, StorageError
from distillab.files import new_folder, read_json, write_json
from distillab.terminal import echo

_SEAL = "sealed.json"
_BLOCK_BYTES = 1 << 20


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
    the first one that is complete is kept. A damaged folder is reported and made again.

    Args:
        fill: writes the files of the folder that it gets.
    Raises:
        StorageError: the store cannot be written.
    """
    folder = store_root() / part / fingerprint
    if not folder.exists() or damage(folder) is not None:
        with _one_at_a_time(folder):
            fault = damage(folder) if folder.exists() else None
            if fault is not None:
                echo(f"{folder} is damaged and is made again: {fault}", error=True)
            if fault is not None or not folder.exists():
                _make(folder, fill)
    return folder


def damage(folder: Path) -> str | None:
    """Return how the files of a folder differ from its seal, or None."""
    try:
        sealed = read_json(folder / _SEAL)
        for name, size, digest in sealed:
            found = _facts(folder / name)
            if found != [name, size, digest]:
                return f"{name} has {found[1]:,} bytes with hash {found[2]}, sealed were {size:,} with {digest}"
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


def _facts(file: Path) -> list[object]:
    digest, size = xxhash.xxh3_128(), 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return [file.name, size, digest.hexdigest()]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        with suppress(OSError):  # without locks every process fills its own folder, and one is kept
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        "The store of read and encoded rows cannot be written.",
        where=str(folder),
        facts=[str(error)],
        fix="set the environment variable DISTILLAB_CACHE to a folder that can be written",
    )
