"""Read and write the lists of a cache's shards: journals (a line for each finished shard) and manifests.

Every entry has a checksum of itself, so that a damaged one is never taken for one of another cache. It can only name
files of a cache (`names`), so that no list leads to another file of this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from distillab.cache.folder import newer_format, rows_of, shards_of
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.names import HEAD, JOURNALS, MANIFEST, in_another_folder, journal_file, require_own, shard_file
from distillab.cache.shards import INDEX_ROW_BYTES, checksum
from distillab.cache.sources import LocalSource, Source
from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.files import append, write_bytes, write_text
from distillab.records.base import Record


class SealedEntry(Record):
    """A file of a cache. entry_xxh3: over the entry's JSON text without it."""

    file: str
    bytes: int = Field(ge=0)
    sha256: str
    fingerprint: str
    entry_xxh3: str = ""

    def sealed(self) -> Self:
        """Return the entry with its checksum."""
        return self.model_copy(update={"entry_xxh3": self._checksum()})

    @property
    def sound(self) -> bool:
        """It is as it was written."""
        return self.entry_xxh3 == self._checksum()

    def _checksum(self) -> str:
        return f"{checksum(self.model_dump_json(exclude={'entry_xxh3'}).encode()):016x}"


class ShardEntry(SealedEntry):
    """A finished shard. index_bytes: of its header and index; index_xxh3: over them."""

    shard: int = Field(ge=0)
    rows: int = Field(ge=0)
    index_bytes: int = Field(ge=0)
    index_xxh3: str


class HeadEntry(SealedEntry):
    """The stored head of the teacher. xxh3: over the whole file."""

    xxh3: str


class Manifest(Record):
    """Files of other folders that belong to the cache; names are relative to the manifest's folder."""

    format_version: int = FORMAT_VERSION
    fingerprint: str
    shards: tuple[ShardEntry, ...]
    head: HeadEntry | None = None


@dataclass(frozen=True)
class Listing:
    """The entries of journals and manifest.

    Attributes:
        shards: number -> its entry.
        head: of the manifest.
        damaged: journal lines and manifests that cannot be read, each with its place.
    """

    shards: dict[int, ShardEntry] = field(default_factory=dict)
    head: HeadEntry | None = None
    damaged: list[str] = field(default_factory=list)

    def require_sound(self) -> None:
        """Raise CacheCorrupt where something could not be read."""
        if self.damaged:
            raise CacheCorrupt(
                "The list of the cache's shards is damaged.",
                where=self.damaged[0],
                facts=[f"{len(self.damaged)} damaged places"],
                fix="`distillab cache verify --discard` removes them; the same build then makes those shards again",
            )


def read_listing(source: Source, identity: CacheIdentity) -> Listing:
    """Return all finished shards of a cache.

    A journal's last line without its line end was being written when the process died: its shard is not finished.

    Raises:
        CacheMismatch: an entry belongs to another cache, two entries name other bytes for one shard, or the format
            is newer.
    """
    fingerprint = identity.fingerprint
    shards: dict[int, ShardEntry] = {}
    damaged: list[str] = []
    entries: list[tuple[str, ShardEntry]] = []
    for file in source.files(JOURNALS):
        content = source.whole(file) if file.endswith(".jsonl") else None
        for number, line in enumerate((content or b"").split(b"\n")[:-1], start=1):
            place = f"{source.place(file)}, line {number}"
            entry = _entry(line)
            if entry is None:
                damaged.append(place)
            elif entry.file != shard_file(entry.shard):
                damaged.append(f"{place}: it names the file {entry.file!a}, which is not shard {entry.shard} of it")
            else:
                entries.append((place, entry))
    manifest = read_manifest(source, damaged)
    if manifest is not None:
        if manifest.fingerprint != fingerprint:
            raise foreign(source.place(MANIFEST), fingerprint, manifest.fingerprint)
        entries += [(source.place(MANIFEST), entry) for entry in manifest.shards]
    for place, entry in entries:
        if entry.fingerprint != fingerprint or entry.shard >= shards_of(identity):
            raise foreign(place, fingerprint, entry.fingerprint)
        if not _possible(entry, identity):
            damaged.append(f"{place}: shard {entry.shard} cannot have {entry.rows:,} rows in {entry.bytes:,} bytes")
            continue
        before = shards.setdefault(entry.shard, entry)
        if (before.sha256, before.bytes) != (entry.sha256, entry.bytes):
            raise CacheMismatch(
                f"Shard {entry.shard} is in this cache twice, with different bytes.",
                where=place,
                facts=[f"{before.file}: sha256 {before.sha256}", f"{entry.file}: sha256 {entry.sha256}"],
                fix="two machines computed it with different results: remove one (the line, or the merged folder)",
            )
    return Listing(shards, manifest.head if manifest else None, damaged)


def foreign(place: str, wanted: str, found: str) -> CacheMismatch:
    """Return the error of a file that belongs to another cache."""
    return CacheMismatch(
        "A file in this cache belongs to another cache, or identity.json was exchanged or changed.",
        where=place,
        facts=[f"identity.json: fingerprint {wanted}", f"the file: fingerprint {found}"],
        fix="restore the file that belongs here; `distillab cache verify` checks the rest",
    )


class Journal:
    """One worker's list of the shards that it has finished."""

    def __init__(self, folder: Path, worker: int, workers: int) -> None:
        self.path = folder / journal_file(worker, workers)
        self._drop_torn_line()

    def append(self, entry: ShardEntry) -> None:
        """Record a finished shard; when this returns, a power cut does not lose it.

        Raises:
            StorageError: the disk is full; the journal is as it was.
        """
        append(self.path, entry.model_dump_json().encode() + b"\n")

    def _drop_torn_line(self) -> None:
        if self.path.is_symlink():
            raise CacheMismatch(
                "A journal of the cache is a link, so a write would change a file elsewhere.",
                where=str(self.path),
                fix="put the real file there",
            )
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)


def keep_entries(
    folder: Path,
    identity: CacheIdentity,
    keep: Callable[[ShardEntry], bool],
    *,
    keep_listed: Callable[[ShardEntry], bool],
    keep_head: bool,
) -> None:
    """Rewrite journals and manifest with the valid entries that are to be kept.

    Args:
        identity: of the cache.
        keep: of the entries of journals, whose shards are in this folder.
        keep_listed: of the entries of the manifest, whose shards are in other folders.
    Raises:
        CacheMismatch: the folder of the journals is a link; nothing was changed.
    """
    require_own(folder, JOURNALS)
    source = LocalSource(folder)
    for file in source.files(JOURNALS):
        content = (source.whole(file) if file.endswith(".jsonl") else None) or b""
        lines = [(line, _entry(line)) for line in content.split(b"\n")[:-1]]
        kept = b"".join(
            line + b"\n"
            for line, entry in lines
            if entry is not None
            and entry.file == shard_file(entry.shard)
            and _possible(entry, identity)
            and keep(entry)
        )
        if kept != content:
            write_bytes(folder / file, kept)
    manifest = read_manifest(source, [])
    if manifest is not None:
        shards = tuple(entry for entry in manifest.shards if _possible(entry, identity) and keep_listed(entry))
        head = manifest.head if keep_head else None
        write_manifest(folder, manifest.model_copy(update={"shards": shards, "head": head}))
    else:
        # unreadable, or there is none
        (folder / MANIFEST).unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(source: Source, damaged: list[str]) -> Manifest | None:
    """Return the sound entries of a merged cache's manifest; None if there is none, or it is damaged.

    Args:
        damaged: gets the place of a manifest or an entry that cannot be read, or names a forbidden file.
    Raises:
        CacheMismatch: it has a newer format.
    """
    content = source.whole(MANIFEST)
    if content is None:
        return None
    place = source.place(MANIFEST)
    try:
        fields = json.loads(content)
        if isinstance(fields["format_version"], int) and fields["format_version"] > FORMAT_VERSION:
            raise newer_format(place, fields["format_version"])
        manifest = Manifest.model_validate(fields)
    except (ValueError, KeyError, TypeError, RecursionError):
        damaged.append(place)
        return None
    if not all(entry.sound for entry in (*manifest.shards, *filter(None, [manifest.head]))):
        damaged.append(place)
    shards = []
    for entry in manifest.shards:
        if entry.sound and in_another_folder(entry.file, shard_file(entry.shard)):
            shards.append(entry)
        elif entry.sound:
            damaged.append(f"{place}: it names the file {entry.file!a}, which is no shard {entry.shard} of a cache")
    head = manifest.head if manifest.head is not None and manifest.head.sound else None
    if head is not None and not in_another_folder(head.file, HEAD) and head.file != HEAD:
        damaged.append(f"{place}: it names the file {head.file!a}, which is no head of a cache")
        head = None
    return manifest.model_copy(update={"shards": tuple(shards), "head": head})


def _entry(line: bytes) -> ShardEntry | None:
    try:
        entry = ShardEntry.model_validate_json(line)
    except ValidationError:
        return None
    return entry if entry.sound else None


def _possible(entry: ShardEntry, identity: CacheIdentity) -> bool:
    rows = len(rows_of(identity, entry.shard))
    return entry.rows == rows and rows * INDEX_ROW_BYTES <= entry.index_bytes <= entry.bytes
