"""Folders of this machine, and ids of a hub: which of the two a text means."""

from __future__ import annotations

from pathlib import Path


def is_local(path: str) -> bool:
    """True where a text means a folder of this machine, never a hub id such as "organisation/model".

    >>> is_local("./model"), is_local("organisation/model"), is_local("a/b/c")
    (True, False, True)
    """
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()


def local_path(path: str) -> Path:
    """The folder that a local text means, with ~ replaced."""
    return Path(path).expanduser()
