"""A cache's folder: its names, whose it is, and how a file gets into it whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.sources import LocalSource, Source
from distillab.errors import CacheCorrupt, CacheError, CacheMismatch, ConfigError, StorageError

IDENTITY = "identity.json"
SHARDS = "shards"
JOURNALS = "journals"
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
HEAD_FACTS = "head.json"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\.shard-(\d+)\..*\.tmp")
_SHARD = re.compile(r"shard-(\d+)\.safetensors")


def shard_file(number: int) -> str:
    """Name of a shard in its cache."""
    return f"{SHARDS}/shard-{number:05d}.safetensors"


def journal_file(worker: int, workers: int) -> str:
    """Name of a worker's journal in its cache."""
    return f"{JOURNALS}/{worker}-of-{workers}.jsonl"


def shard_number(name: str) -> int | None:
    """Which shard a file of the folder `shards` is, or is a temporary file of; None: neither."""
    found = _SHARD.fullmatch(name) or _TEMPORARY.fullmatch(name)
    return int(found.group(1)) if found else None


def shards_of(identity: CacheIdentity) -> int:
    """How many shards a complete cache has."""
    return -(-identity.rows // identity.rows_per_shard)


def rows_of(identity: CacheIdentity, number: int) -> range:
    """The numbers of the rows that stand in a shard."""
    start = number * identity.rows_per_shard
    return range(start, min(start + identity.rows_per_shard, identity.rows))


# ---------------------------------------------------------------- whose it is


def read_identity(source: Source) -> CacheIdentity:
    """What the cache is of.

    Raises:
        CacheCorrupt: identity.json is missing or damaged.
        CacheMismatch: it is of a newer format.
    """
    content = source.whole(IDENTITY)
    if content is None:
        raise CacheCorrupt(
            "There is no cache here: identity.json is missing.",
            where=source.place(IDENTITY),
            fix="give the folder that `distillab cache build` made, or build one",
        )
    try:
        fields = json.loads(content)
        # before the fields, of which a newer version may have others
        version = fields["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise newer_format(source.place(IDENTITY), version)
        identity = CacheIdentity.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad_identity(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_identity(source, repr(error)) from error
    if identity.format_version != FORMAT_VERSION:
        raise _bad_identity(source, f"format_version: {identity.format_version}")
    return identity


def claim(folder: Path, identity: CacheIdentity) -> None:
    """Make the folder this identity's, or see that it is already.

    Raises:
        CacheMismatch: it is another's; every differing field is shown.
        CacheCorrupt: identity.json is damaged.
        StorageError: the disk is full.
    """
    with storing(folder):
        for name in (SHARDS, JOURNALS):
            (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / IDENTITY
    content = (identity.model_dump_json(indent=2) + "\n").encode()
    if path.exists() or not place_new(path, content, temporary_name(path)):
        there = read_identity(LocalSource(folder))
        if there != identity:
            raise CacheMismatch(
                "This folder holds the cache of something else.",
                where=str(path),
                facts=differences(there, identity, first="the cache", second="this run"),
                fix="build into another folder, or go back to the settings of this one",
            )
    remove_temporaries(path)


def differences(a: CacheIdentity, b: CacheIdentity, *, first: str, second: str) -> list[str]:
    """One line for every field in which two identities differ, with both sides."""
    left, right = _flat(a.model_dump()), _flat(b.model_dump())
    names = [*left, *(name for name in right if name not in left)]
    return [
        f"{name}: {first} {left.get(name, 'nothing')!r}, {second} {right.get(name, 'nothing')!r}"
        for name in names
        if left.get(name, "nothing") != right.get(name, "nothing")
    ]


@contextmanager
def within(place: str) -> Iterator[None]:
    """Say of which file or folder an error from inside is, whose code sees bytes and no names."""
    try:
        yield
    except CacheError as error:
        if place not in (error.where or ""):
            error.where = f"{place}, {error.where}" if error.where else place
        raise


def newer_format(place: str, version: object) -> CacheMismatch:
    """The error of a file that a newer version of the format has written."""
    return CacheMismatch(
        "This cache was written by a newer version of distillab.",
        where=place,
        facts=[f"its format is version {version}, this distillab reads version {FORMAT_VERSION}"],
        fix="update distillab, or build the cache again with this one",
    )


def _flat(fields: object, name: str = "") -> dict[str, Any]:
    if isinstance(fields, dict):
        items = [(str(key), value) for key, value in fields.items()]
    elif isinstance(fields, (list, tuple)):
        items = [(str(place), value) for place, value in enumerate(fields)]
    else:
        return {name: fields}
    return {key: value for part, inner in items for key, value in _flat(inner, f"{name}.{part}".lstrip(".")).items()}


def _bad_identity(source: Source, fact: str) -> CacheCorrupt:
    return CacheCorrupt(
        "The cache's identity cannot be read, so nothing says what the cache is of.",
        where=source.place(IDENTITY),
        facts=[fact],
        fix="bring the file back from a copy, or delete the cache and build it again",
    )


# ---------------------------------------------------------------- how a file gets in


def temporary_name(path: Path, *, of: str = "") -> Path:
    """A name beside `path` that no other process has. `of`: whose it is, for people."""
    stem = path.name.partition(".")[0] if path.parent.name == SHARDS else path.name
    return path.with_name(f".{stem}.{of or 'any'}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_temporaries(path: Path) -> None:
    """Remove what killed processes have left of making `path`, which is there now."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def place_new(path: Path, content: bytes, temporary: Path) -> bool:
    """Put a whole file at a name that must be free, or leave everything as it is.

    Returns:
        False: the name is taken, or another process has removed the temporary file, which it does only where it
        takes itself for the only one that makes `path`.
    Raises:
        StorageError: the disk is full.
        ConfigError: the file system has no hard links.
    """
    try:
        with storing(path):
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                # unlike a rename, a link does not take the place of what is there
                os.link(temporary, path)
            except (FileExistsError, FileNotFoundError):
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise ConfigError(
                        "This file system has no hard links, by which two writers are kept apart.",
                        where=str(path),
                        fix="build on a local disk, then copy the folder",
                    ) from error
                raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def replace_file(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all.

    Raises:
        StorageError: the disk is full.
    """
    temporary = temporary_name(path)
    try:
        with storing(path):
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Say in one way that there is no room, for whatever is written inside.

    Raises:
        StorageError: the disk, or what this user may use of it, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageError(
            "The disk has no room for more of the cache.",
            where=str(path),
            facts=[str(error)],
            fix="free some space, then give the same command again: it resumes, what is finished is kept",
        ) from error
