"""Summarise a cache in figures, read from its index alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillab.cache.folder import read_identity, shards_of
from distillab.cache.head import read_head_entry
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import HeadEntry, read_listing
from distillab.cache.names import HEAD_FACTS
from distillab.cache.opened import OpenShards
from distillab.cache.sources import Source, open_source


@dataclass(frozen=True)
class CacheSummary:
    """Figures of the shards that are there.

    Attributes:
        identity: of the cache.
        shards, missing_shards: finished, and not.
        rows, tokens, scored_tokens: of the finished shards.
        kind_bytes: "tokens" and every kind -> bytes of its records.
        stored_bytes: of the shards, with headers and index.
        head_bytes: of the teacher's head, which kind full stores once; 0 if there is none.
    """

    identity: CacheIdentity
    shards: int
    missing_shards: int
    rows: int
    tokens: int
    scored_tokens: int
    kind_bytes: dict[str, int]
    stored_bytes: int
    head_bytes: int

    @property
    def complete(self) -> bool:
        """All rows are there."""
        return not self.missing_shards

    @property
    def total_bytes(self) -> int:
        """Shards and head."""
        return self.stored_bytes + self.head_bytes


def summarise(location: str | Path) -> CacheSummary:
    """Summarise a cache.

    Raises:
        CacheCorrupt, CacheMismatch: as `CacheReader`.
    """
    source = open_source(location)
    identity = read_identity(source)
    listing = read_listing(source, identity)
    listing.require_sound()
    shards = OpenShards(source, identity, listing.shards)
    rows = tokens = scored = 0
    kind_bytes = dict.fromkeys(shards.sections, 0)
    for _, index in shards.open_all():
        rows += len(index)
        tokens += int(index.lengths[:, 0].sum())
        scored += int(index.lengths[:, 1].sum())
        for section, ends in index.ends.items():
            kind_bytes[section] += int(ends[-1])
    return CacheSummary(
        identity=identity,
        shards=len(listing.shards),
        missing_shards=shards_of(identity) - len(listing.shards),
        rows=rows,
        tokens=tokens,
        scored_tokens=scored,
        kind_bytes=kind_bytes,
        stored_bytes=sum(entry.bytes for entry in listing.shards.values()),
        head_bytes=_head_bytes(source, listing.head),
    )


def _head_bytes(source: Source, listed: HeadEntry | None) -> int:
    if listed is None and source.whole(HEAD_FACTS) is None:
        return 0
    return (listed or read_head_entry(source)).bytes
