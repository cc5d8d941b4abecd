"""Folders of this machine, and ids of a hub: which of the two a text means."""

from __future__ import annotations

import shutil
from pathlib import Path

from distillab.errors import StorageError


def is_local(path: str) -> bool:
    """True where a text means a folder of this machine, never a hub id such as "organisation/model".

    >>> is_local("./model"), is_local("organisation/model"), is_local("a/b/c")
    (True, False, True)
    """
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()


def local_path(path: str) -> Path:
    """The folder that a local text means, with ~ replaced."""
    return Path(path).expanduser()


def require_space(folder: Path, needed_bytes: int, *, what: str, otherwise: str | None = None) -> None:
    """Check that a disk has room, before something large is written.

    Args:
        folder: where it will be written; it need not exist yet.
        what: what will be written, for the message.
        otherwise: a way out beside more space, for the message.
    Raises:
        StorageError: it has not.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise StorageError(
            f"The disk has no room for {what}.",
            where=str(folder),
            facts=[f"needed {needed_bytes / 2**20:.1f} MiB", f"free {free / 2**20:.1f} MiB"],
            fix="free some space, then give the same command again: it resumes"
            + (f"; or {otherwise}" if otherwise else ""),
        )
