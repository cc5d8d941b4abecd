"""Open a cache's folder: its identity, and which rows are in which shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillab.cache.identity import MOST_SHARDS, CacheIdentity
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.names import IDENTITY, JOURNALS, MANIFEST, SHARDS, require_own
from distillab.cache.sources import LocalSource, Source
from distillab.errors import CacheCorrupt, CacheError, CacheMismatch, ConfigError
from distillab.files import disk_errors, place_new, remove_leftovers


def shards_of(identity: CacheIdentity) -> int:
    """Return how many shards a complete cache has."""
    return -(-identity.rows // identity.rows_per_shard)


def rows_of(identity: CacheIdentity, number: int) -> range:
    """Return the numbers of the rows of a shard."""
    start = number * identity.rows_per_shard
    return range(start, min(start + identity.rows_per_shard, identity.rows))


# ---------------------------------------------------------------- identity


def read_identity(source: Source) -> CacheIdentity:
    """Return the identity of a cache.

    Raises:
        CacheCorrupt: identity.json is missing or damaged.
        CacheMismatch: it has a newer format.
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
        # before the fields, which a newer version can change
        version = fields["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise newer_format(source.place(IDENTITY), version)
        identity = CacheIdentity.model_validate(fields)
        _ = identity.fingerprint  # a ValueError if a text is not valid UTF-8
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad_identity(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad_identity(source, repr(error)[:200]) from error
    if identity.format_version != FORMAT_VERSION:
        raise _bad_identity(source, f"format_version: {identity.format_version}")
    if shards_of(identity) > MOST_SHARDS:
        raise _bad_identity(source, _too_many_shards(identity))
    return identity


def claim(folder: Path, identity: CacheIdentity) -> None:
    """Write this identity into the folder, or check that it is there already.

    Raises:
        CacheMismatch: it has another identity (every field that differs is shown), or a subfolder is a link.
        CacheCorrupt: identity.json is damaged.
        StorageError: the disk is full.
        ConfigError: the cache would have too many shards.
    """
    if shards_of(identity) > MOST_SHARDS:
        raise ConfigError(
            "A cache has too many shards.",
            where="cache.rows_per_shard",
            facts=[_too_many_shards(identity)],
            fix="set cache.rows_per_shard higher",
        )
    with disk_errors(folder):
        for name in (SHARDS, JOURNALS):
            require_own(folder, name).mkdir(parents=True, exist_ok=True)
    path = folder / IDENTITY
    content = (identity.model_dump_json(indent=2) + "\n").encode()
    if path.exists() or not place_new(path, content):
        there = read_identity(LocalSource(folder))
        if there != identity:
            raise CacheMismatch(
                "This folder holds a cache of another identity.",
                where=str(path),
                facts=differences(there, identity, first="the cache", second="this run"),
                fix="build into another folder, or go back to the settings of this one",
            )
    for name in (IDENTITY, MANIFEST):
        remove_leftovers(folder / name)


def differences(a: CacheIdentity, b: CacheIdentity, *, first: str, second: str) -> list[str]:
    """Return one line for every field in which two identities differ, with both values."""
    left, right = _flat(a.model_dump()), _flat(b.model_dump())
    names = [*left, *(name for name in right if name not in left)]
    return [
        f"{name}: {first} {left.get(name, 'nothing')!r}, {second} {right.get(name, 'nothing')!r}"
        for name in names
        if left.get(name, "nothing") != right.get(name, "nothing")
    ]


@contextmanager
def within(place: str) -> Iterator[None]:
    """Add the file or folder to an error from code that sees bytes and no names."""
    try:
        yield
    except CacheError as error:
        if place not in (error.where or ""):
            error.where = f"{place}, {error.where}" if error.where else place
        raise


def newer_format(place: str, version: object) -> CacheMismatch:
    """Return the error of a file that a newer version of the format has written."""
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


def _too_many_shards(identity: CacheIdentity) -> str:
    shards = shards_of(identity)
    return f"{identity.rows:,} rows, {identity.rows_per_shard:,} a shard: {shards:,} shards; at most {MOST_SHARDS:,}"


def _bad_identity(source: Source, fact: str) -> CacheCorrupt:
    return CacheCorrupt(
        "The cache's identity cannot be read, so its content is unknown.",
        where=source.place(IDENTITY),
        facts=[fact],
        fix="restore the file from a copy, or delete the cache and build it again",
    )
