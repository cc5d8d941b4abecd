"""Merge the shards of several folders into one cache, by a list: nothing is copied or moved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distillab.cache.folder import claim, differences, read_identity, shards_of
from distillab.cache.head import read_head_entry
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import (
    HeadEntry,
    Manifest,
    SealedEntry,
    ShardEntry,
    foreign,
    read_listing,
    write_manifest,
)
from distillab.cache.names import HEAD_FACTS, shard_file
from distillab.cache.sources import LocalSource, not_there
from distillab.errors import CacheMismatch, ConfigError


def merge(into: Path, folders: Sequence[Path]) -> list[int]:
    """Write `into/manifest.json`, which lists the shards of all folders by relative paths.

    Keep the relative places of the folders; copied together they stay readable. A second merge adds to the list. Shards
    that several folders have must be the same bytes.

    Args:
        into: a new folder, or a cache of the same identity, whose own shards stay part of it.
        folders: caches of one identity, each with some of the shards.
    Returns:
        the shards that are still missing.
    Raises:
        CacheMismatch: the identities differ (both values are shown), or a shard differs between two folders.
        CacheCorrupt: a folder is no cache, its lists are damaged, or a listed file is missing.
        ConfigError: no folder was given.
    """
    if not folders:
        raise ConfigError("There is nothing to merge.", fix="name the folders that hold the shards")
    identities = [read_identity(LocalSource(folder)) for folder in folders]
    for folder, identity in zip(folders[1:], identities[1:], strict=True):
        if identity != identities[0]:
            raise CacheMismatch(
                "These folders hold different caches.",
                where=f"{folders[0]} and {folder}",
                facts=differences(identities[0], identity, first=folders[0].name, second=folder.name),
                fix="merge folders that were built with the same recipe, teacher and rows",
            )
    claim(into, identities[0])
    listed: dict[int, ShardEntry] = {}
    head: HeadEntry | None = None
    for folder in (into, *folders):
        head = _add(listed, head, folder, into, identities[0])
    # entries of the folder's own journals need not be in its manifest
    shards = tuple(listed[number] for number in sorted(listed) if listed[number].file != shard_file(number))
    write_manifest(into, Manifest(fingerprint=identities[0].fingerprint, shards=shards, head=head))
    return [number for number in range(shards_of(identities[0])) if number not in listed]


def _add(
    listed: dict[int, ShardEntry], head: HeadEntry | None, folder: Path, into: Path, identity: CacheIdentity
) -> HeadEntry | None:
    """Add a folder's shards to the list; the head that the list has after it."""
    source = LocalSource(folder)
    listing = read_listing(source, identity)
    listing.require_sound()
    for number, entry in listing.shards.items():
        if source.size(entry.file) is None:
            raise not_there(source.place(entry.file))
        moved = entry.model_copy(update={"file": _seen_from(into, folder, entry)}).sealed()
        before = listed.setdefault(number, moved)
        if before.sha256 != moved.sha256:
            raise CacheMismatch(
                f"Two folders hold shard {number} with different bytes.",
                where=f"{into / before.file} and {source.place(entry.file)}",
                facts=[f"sha256 {before.sha256}", f"sha256 {moved.sha256}"],
                fix="two machines computed it with different results: merge without one folder, or build it again",
            )
    found = listing.head
    if found is None and source.size(HEAD_FACTS) is not None:
        found = read_head_entry(source)
    if found is None:
        return head
    if found.fingerprint != identity.fingerprint:
        raise foreign(source.place(HEAD_FACTS), identity.fingerprint, found.fingerprint)
    moved_head = found.model_copy(update={"file": _seen_from(into, folder, found)}).sealed()
    if head is not None and head.sha256 != moved_head.sha256:
        raise CacheMismatch(
            "Two folders hold different heads of the teacher.",
            where=f"{into / head.file} and {source.place(found.file)}",
            facts=[f"sha256 {head.sha256}", f"sha256 {moved_head.sha256}"],
            fix="run `distillab cache verify` on both",
        )
    return head or moved_head


def _seen_from(into: Path, folder: Path, entry: SealedEntry) -> str:
    # resolve the folder, not the file: a name in a list is that of a cache's file, even if it is a link
    return Path(os.path.relpath(folder.resolve() / entry.file, into.resolve())).as_posix()
