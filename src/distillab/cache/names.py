"""Names of a cache's files, and which names a list can contain.

A cache can come from anywhere, so the names in its lists are checked before a file is opened, counted or removed: a
journal names shards of its own folder, a manifest names shards and a head of other folders, which are only read.
"""

from __future__ import annotations

import re
from pathlib import Path

from distillab.errors import CacheMismatch

IDENTITY = "identity.json"
SHARDS = "shards"
JOURNALS = "journals"
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
HEAD_FACTS = "head.json"

_TEMPORARY = re.compile(r"\.shard-([0-9]+)\..*\.tmp")
_SHARD = re.compile(r"shard-([0-9]+)\.safetensors")


def shard_file(number: int) -> str:
    """Return name of a shard in its cache."""
    return f"{SHARDS}/shard-{number:05d}.safetensors"


def journal_file(worker: int, workers: int) -> str:
    """Return name of a worker's journal in its cache."""
    return f"{JOURNALS}/{worker}-of-{workers}.jsonl"


def shard_number(name: str) -> int | None:
    """Return which shard a file of the folder `shards` is, or is a temporary file of; None: neither."""
    found = _SHARD.fullmatch(name) or _TEMPORARY.fullmatch(name)
    return int(found.group(1)) if found else None


def in_another_folder(file: str, own: str) -> bool:
    """Return whether a manifest's name is that of the file `own` in a folder that a relative path leads to.

    >>> in_another_folder("../part/shards/shard-00001.safetensors", "shards/shard-00001.safetensors")
    True
    >>> in_another_folder("../../etc/passwd", "shards/shard-00001.safetensors")
    False
    """
    folder, found = file.removesuffix(own), file.endswith(own)
    if not found or not folder.endswith("/") or "\0" in folder or "\\" in folder:
        return False
    parts = folder[:-1].split("/")
    while parts and parts[0] == "..":
        del parts[0]
    return all(part not in ("", ".", "..") for part in parts)


def require_own(folder: Path, name: str) -> Path:
    """Return a subfolder of a cache in which files are written or removed; it must not be a link.

    Raises:
        CacheMismatch: it is a link.
    """
    there = folder / name
    if there.is_symlink() or (there.exists() and there.resolve() != folder.resolve() / name):
        raise CacheMismatch(
            f"The cache's folder {name} is a link, so a write would change files elsewhere.",
            where=str(there),
            facts=[f"it leads to {str(there.resolve())!r}"],
            fix="put a real folder there; to keep a cache on another disk, link or name the whole cache folder",
        )
    return there
