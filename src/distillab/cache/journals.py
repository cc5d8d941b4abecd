"""Which shards a cache has: a line a finished shard in a journal, or an entry of a manifest.

Every entry has a checksum over itself, so that a damaged one is never taken for one of another cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from distillab.cache.folder import (
    JOURNALS,
    MANIFEST,
    journal_file,
    newer_format,
    replace_file,
    shards_of,
    storing,
    sync_folder,
)
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.shards import checksum
from distillab.cache.sources import LocalSource, Source
from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.records.base import Record


class SealedEntry(Record):
    """A file of a cache. entry_xxh3: over the entry's JSON text without it."""

    file: str
    bytes: int
    sha256: str
    fingerprint: str
    entry_xxh3: str = ""

    def sealed(self) -> Self:
        """With its checksum."""
        return self.model_copy(update={"entry_xxh3": self._checksum()})

    @property
    def sound(self) -> bool:
        """It says what was once written."""
        return self.entry_xxh3 == self._checksum()

    def _checksum(self) -> str:
        return f"{checksum(self.model_dump_json(exclude={'entry_xxh3'}).encode()):016x}"


class ShardEntry(SealedEntry):
    """A finished shard. index_bytes: of its header and index; index_xxh3: over them."""

    shard: int
    rows: int
    index_bytes: int
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
    """What journals and manifest say.

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
                fix="`distillab cache verify --discard` takes them out; the same build then makes those shards again",
            )


def read_listing(source: Source, identity: CacheIdentity) -> Listing:
    """All finished shards of a cache.

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
            else:
                entries.append((place, entry))
    manifest = read_manifest(source, damaged)
    if manifest is not None:
        if manifest.fingerprint != fingerprint:
            raise foreign(source.place(MANIFEST), fingerprint, manifest.fingerprint)
        entries += [(source.place(MANIFEST), entry) for entry in manifest.shards if entry.sound]
    for place, entry in entries:
        if entry.fingerprint != fingerprint or entry.shard >= shards_of(identity):
            raise foreign(place, fingerprint, entry.fingerprint)
        before = shards.setdefault(entry.shard, entry)
        if (before.sha256, before.bytes) != (entry.sha256, entry.bytes):
            raise CacheMismatch(
                f"Shard {entry.shard} stands in this cache twice, with other bytes.",
                where=place,
                facts=[f"{before.file}: sha256 {before.sha256}", f"{entry.file}: sha256 {entry.sha256}"],
                fix="two machines computed it, and not alike: take one of the two out (the line, or the merged folder)",
            )
    head = manifest.head if manifest is not None and manifest.head is not None and manifest.head.sound else None
    return Listing(shards, head, damaged)


def foreign(place: str, wanted: str, found: str) -> CacheMismatch:
    """The error of a file that belongs to another cache."""
    return CacheMismatch(
        "A file in this cache belongs to another cache, or identity.json is another's or was changed.",
        where=place,
        facts=[f"identity.json: fingerprint {wanted}", f"the file: fingerprint {found}"],
        fix="put back the file that belongs here; `distillab cache verify` tells whether the rest is sound",
    )


class Journal:
    """One worker's list of the shards that it has finished."""

    def __init__(self, folder: Path, worker: int, workers: int) -> None:
        self.path = folder / journal_file(worker, workers)
        self._drop_torn_line()

    def append(self, entry: ShardEntry) -> None:
        """Write down a finished shard; when this returns, a power cut does not lose it.

        Raises:
            StorageError: the disk is full; the journal is as it was.
        """
        line = entry.model_dump_json().encode() + b"\n"
        new = not self.path.exists()
        with storing(self.path), self.path.open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                rest = line
                while rest:
                    # a full disk may first take a part, and say why it takes no more at the next call
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                os.ftruncate(stream.fileno(), size)
                raise
        if new:
            sync_folder(self.path.parent)

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)


def keep_entries(folder: Path, keep: Callable[[ShardEntry], bool], *, keep_head: bool) -> None:
    """Write journals and manifest anew with the sound entries that `keep` keeps."""
    source = LocalSource(folder)
    for file in source.files(JOURNALS):
        content = (folder / file).read_bytes()
        lines = [(line, _entry(line)) for line in content.split(b"\n")[:-1]]
        kept = b"".join(line + b"\n" for line, entry in lines if entry is not None and keep(entry))
        if kept != content:
            replace_file(folder / file, kept)
    manifest = read_manifest(source, [])
    if manifest is not None:
        shards = tuple(entry for entry in manifest.shards if entry.sound and keep(entry))
        head = manifest.head if keep_head else None
        write_manifest(folder, manifest.model_copy(update={"shards": shards, "head": head}))
    else:
        # nothing can be read in it, or there is none
        (folder / MANIFEST).unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest."""
    replace_file(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())


def read_manifest(source: Source, damaged: list[str]) -> Manifest | None:
    """The manifest of a merged cache; None where there is none, or it is damaged.

    Args:
        damaged: gets the place of a manifest or an entry that cannot be read.
    Raises:
        CacheMismatch: it is of a newer format.
    """
    content = source.whole(MANIFEST)
    if content is None:
        return None
    try:
        fields = json.loads(content)
        if isinstance(fields["format_version"], int) and fields["format_version"] > FORMAT_VERSION:
            raise newer_format(source.place(MANIFEST), fields["format_version"])
        manifest = Manifest.model_validate(fields)
    except (ValueError, KeyError, TypeError):
        damaged.append(source.place(MANIFEST))
        return None
    if not all(entry.sound for entry in (*manifest.shards, *filter(None, [manifest.head]))):
        damaged.append(source.place(MANIFEST))
    return manifest


def _entry(line: bytes) -> ShardEntry | None:
    try:
        entry = ShardEntry.model_validate_json(line)
    except ValidationError:
        return None
    return entry if entry.sound else None
