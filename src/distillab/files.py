"""Write files atomically and durably, read JSON, and check disk space.

Content is written to a random temporary name beside the target (created with O_EXCL and O_NOFOLLOW, so that no planted
link is followed), synced, renamed, and the folder is synced. Permissions are the user's default.

`replacing` replaces an existing file; `place_new` and `new_folder` need a free name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from distillab.downloads import START_BYTES, not_downloaded
from distillab.errors import ConfigError, DataError, StorageError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch reports only the bytes that it has written
_TORCH_STOPPED = re.compile(r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing")
_DAY_S = 86_400
_RESUMES = "free some space, then run the same command again: it resumes"


# ---------------------------------------------------------------- writing


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; when this returns, it survives a power cut.

    Raises:
        StorageError: the disk or the user's quota is full.
    """
    with replacing(path) as temporary, create_new(temporary) as descriptor:
        write_all(descriptor, content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does, without changing line ends."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, as `write_bytes` does; a ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line, as `write_bytes` does; a ValueError for NaN and infinity."""
    write_text(path, "".join(json_line(value) for value in values))


def json_line(value: Any) -> str:
    """Return one JSON value and its line end."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file that replaces `path` at the end, or is removed after an error.

    For libraries that write to a name; use `write_bytes` for content in memory. Makes the folder of `path`.

    Raises:
        StorageError: the disk is full.
    """
    temporary = temporary_name(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    remove_leftovers(path)


def place_new(path: Path, content: bytes) -> bool:
    """Put a whole file at a name that must be free, or change nothing.

    Returns:
        False: the name is taken, or another process that also makes `path` has removed the temporary file.
    Raises:
        StorageError: the disk is full.
        ConfigError: the file system has no hard links.
    """
    temporary = temporary_name(path)
    try:
        with disk_errors(path):
            with create_new(temporary) as descriptor:
                write_all(descriptor, content)
            try:
                # unlike a rename, a link does not replace an existing file
                os.link(temporary, path)
            except (FileExistsError, FileNotFoundError):
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise ConfigError(
                        "This file system has no hard links, which are needed against concurrent writers.",
                        where=str(path),
                        fix="build on a local disk, then copy the folder",
                    ) from error
                raise
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which is renamed to `path` at the end, or is removed after an error.

    Args:
        replace: remove what has the name; otherwise the name must be free.
    Raises:
        OSError: `path` exists and is not an empty folder; it is not changed.
        StorageError: the disk is full.
    """
    temporary = temporary_name(path)
    old = temporary_name(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    made = Path(folder, name)
                    made.chmod(_permissions(temporary))  # libraries can set narrower permissions
                    sync(made)
                sync(Path(folder))
            if replace and path.exists():
                path.rename(old)
            temporary.rename(path)
            sync(path.parent)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
    remove_leftovers(path)


def _permissions(folder: Path) -> int:
    """Return the default permissions of a file, from a folder that was just made."""
    return stat.S_IMODE(folder.stat().st_mode) & 0o666


def append(path: Path, content: bytes) -> None:
    """Append to a file, made if it is missing; on the disk when this returns, or unchanged after an error.

    Raises:
        StorageError: the disk is full.
    """
    new = not path.exists()
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new:
            sync(path.parent)


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that no other process has or can guess. `leftovers` finds it again."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")


def leftovers(path: Path) -> list[Path]:
    """Return temporary files and folders of killed processes that were making `path`.

    From another machine, whose processes cannot be seen from here, those older than a day.
    """
    named = re.compile(re.escape(f".{path.name}.") + r"([0-9a-f]{8})-([0-9]+)-[0-9a-f]+\.tmp")
    found = [(entry, named.fullmatch(entry.name)) for entry in path.parent.glob(".*.tmp")]
    return sorted(entry for entry, match in found if match and not _may_live(entry, match[1], int(match[2])))


def remove_leftovers(path: Path) -> None:
    """Remove the leftovers of making `path`."""
    for left in leftovers(path):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _may_live(entry: Path, machine: str, process: int) -> bool:
    if machine != _machine():
        try:
            return time.time() - entry.lstat().st_mtime < _DAY_S
        except FileNotFoundError:
            return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@cache
def _machine() -> str:
    """Return a hash of this machine and, in containers, of the process namespace."""
    processes = Path("/proc/self/ns/pid")
    group = processes.stat().st_ino if processes.exists() else 0
    return hashlib.sha256(f"{platform.node()} {group}".encode()).hexdigest()[:8]


@contextmanager
def create_new(path: Path) -> Iterator[int]:
    """Yield the descriptor of a new file, not through a link; synced and closed at the end.

    Raises:
        FileExistsError: the name is taken.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: a full disk can first take a part, and raise its error at the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems sync files only and raise EINVAL for folders
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn every error of a full disk into a StorageError.

    Raises:
        StorageError: the disk, the user's quota or the limit of a file's size is reached.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise disk_full_error(error, where=str(path)) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk; safetensors, tokenizers and torch only write so in the message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) in _FULL if number else _TORCH_STOPPED.search(str(error)) is not None


def disk_full_error(error: BaseException, *, where: str | None) -> StorageError:
    """Return the StorageError for an error of which `is_disk_full` is true."""
    return StorageError(
        "The disk is full, or the user's quota is used up.",
        where=where,
        facts=[str(error)],
        fix=_RESUMES,
    )


def require_space(folder: Path, needed_bytes: int, *, what: str, otherwise: str | None = None) -> None:
    """Check that a disk has enough free space before something large is written.

    Args:
        folder: the target; it need not exist yet.
        what: what will be written, for the message.
        otherwise: another fix than freeing space, for the message.
    Raises:
        StorageError: there is too little space.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise StorageError(
            f"The disk has no room for {what}.",
            where=str(folder),
            facts=[f"needed {needed_bytes / 2**20:.1f} MiB", f"free {free / 2**20:.1f} MiB"],
            fix=_RESUMES + (f"; or {otherwise}" if otherwise else ""),
        )


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


# ---------------------------------------------------------------- reading


def read_json(path: Path) -> Any:
    """Read a file with one JSON value.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    content = _content(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        fact, fix = not_downloaded(content[:START_BYTES]) or (str(error)[:200], None)
        raise DataError("The file is not JSON.", where=str(path), facts=[fact], fix=fix) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line; lines end at a line feed and nowhere else.

    Raises:
        DataError: the file cannot be read, or a line (also the last one) is not a whole JSON object.
    """
    *lines, rest = _content(path).split(b"\n")
    if rest:
        where = f"{path}, line {len(lines) + 1}"
        raise DataError("The last line of the file is incomplete: it was cut off.", where=where)
    return [json_object(line, where=f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The file cannot be read: {error.strerror}.", where=str(path)) from error


def json_object(text: bytes | str, *, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        DataError: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("A line of the file is damaged.", where=where, facts=[str(error)[:200]]) from error
    if not isinstance(value, dict):
        raise DataError("A line of the file is not a JSON object.", where=where, facts=[f"got: {type(value).__name__}"])
    return value


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
