"""Read a cache: rows by the tokens that the teacher read, in any order; every byte is checked before it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distillab.cache.compression import check_compression, decompress
from distillab.cache.finding import RowFinder
from distillab.cache.folder import read_identity, rows_of, shards_of, within
from distillab.cache.head import StoredHead, read_head
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import read_listing
from distillab.cache.kinds import Layout, decode
from distillab.cache.layout import RecordLayout, Section
from distillab.cache.opened import OpenShards
from distillab.cache.rows import CachedRow
from distillab.cache.shards import TOKENS, Raw
from distillab.cache.sources import open_source
from distillab.cache.streams import Stored
from distillab.errors import CacheCorrupt, CacheError, CacheMismatch, ShapeError, near_names


class CacheReader:
    """An open cache. Row i is row i of the data set that it was built from; rows are found by `row_digest`.

    It can be pickled, and used after a fork: open files are dropped and opened again.

    Args:
        location: a local folder, or a URL that fsspec supports, such as s3://bucket/cache.
    Raises:
        CacheCorrupt: there is no cache, or its identity, a journal or a shard's index is damaged.
        CacheMismatch: a shard or a journal belongs to another cache, or the format is newer.
        ConfigError: a package that the place or the compression needs is not installed.
    """

    def __init__(self, location: str | Path) -> None:
        self._source = open_source(location)
        self.identity: CacheIdentity = read_identity(self._source)
        listing = read_listing(self._source, self.identity)
        listing.require_sound()
        with within(self.location):
            check_compression(self.identity.compression)
        self._head_entry = listing.head
        self._shards = OpenShards(self._source, self.identity, listing.shards)
        self._finder = RowFinder(self._shards)
        self._layouts: dict[str, Layout] = {layout.kind: layout for layout in self.identity.layouts}

    def __len__(self) -> int:
        """Return the number of rows of the complete cache."""
        return self.identity.rows

    @property
    def location(self) -> str:
        """The folder or URL."""
        return self._source.location

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stored kinds."""
        return self.identity.kinds

    @property
    def complete(self) -> bool:
        """All rows are there (of kind full, the head is read where it is needed)."""
        return len(self._shards.entries) == shards_of(self.identity)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(entry.bytes for entry in self._shards.entries.values())

    def missing_shards(self) -> list[int]:
        """Return the numbers of the missing shards."""
        return [number for number in range(shards_of(self.identity)) if number not in self._shards.entries]

    def require_complete(self) -> None:
        """Check, before anything is read, that all rows are there.

        Raises:
            CacheMismatch: shards are missing. (Reading one of them raises CacheCorrupt.)
        """
        if not self.complete:
            raise self._incomplete(CacheMismatch)

    def present_rows(self) -> npt.NDArray[np.int64]:
        """Return (rows that are there,) their numbers, rising."""
        found = [np.asarray(rows_of(self.identity, number)) for number in sorted(self._shards.entries)]
        return np.concatenate(found, dtype=np.int64) if found else np.zeros(0, np.int64)

    def keys(self) -> list[str]:
        """Return the key of every row of a complete cache, in the order of the rows.

        Raises:
            CacheCorrupt: shards are missing.
        """
        if not self.complete:
            raise self._incomplete(CacheCorrupt)
        return [key for number in sorted(self._shards.entries) for key in self._shards.index(number).row_keys()]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return (rows that are there, 2): tokens L and scored positions N of each, in the order of `present_rows`."""
        found = [self._shards.index(number).lengths for number in sorted(self._shards.entries)]
        return np.concatenate(found) if found else np.zeros((0, 2), np.int64)

    def find(self, digest: bytes) -> int | None:
        """Return the number of the row with this `row_digest`, the first of several; None where there is none."""
        return self._finder.find([digest])[0]

    def find_many(self, digests: Sequence[bytes]) -> list[int | None]:
        """`find` of each."""
        return self._finder.find(digests)

    def read(self, rows: Sequence[int], kinds: Sequence[str]) -> list[CachedRow]:
        """Return rows with their tokens and the sections of some kinds.

        Args:
            rows: numbers, in any order, also twice.
            kinds: of this cache; none: the tokens alone.
        Raises:
            CacheCorrupt: a record is damaged, or a row is not there.
            CacheMismatch: a kind is not stored.
        """
        if not len(rows):
            return []
        places = [self._place(row) for row in rows]
        layouts = {kind: self._layout(kind) for kind in kinds}
        records = self._shards.records(places, [TOKENS, *layouts])
        lengths = [self._shards.index(number).lengths[row].tolist() for number, row in places]
        tokens = [length for length, _ in lengths]
        with within(self.location):
            content = self._content(records[TOKENS], lengths, self.identity.tokens)
            input_ids, answer_mask = self.identity.tokens.decode(content, tokens)
            sections = {kind: self._split(records[kind], lengths, layout) for kind, layout in layouts.items()}
        ends = np.cumsum(tokens).tolist()
        return [
            CachedRow(
                key=self._shards.index(number).row_key(row),
                input_ids=input_ids[end - length : end],
                answer_mask=answer_mask[end - length : end],
                sections={kind: found[i] for kind, found in sections.items()},
            )
            for i, ((number, row), length, end) in enumerate(zip(places, tokens, ends, strict=True))
        ]

    def read_flat(self, rows: Sequence[int], kind: str) -> Section:
        """Read one section of many rows, joined along N, M or P and decoded at once: the fast path of training.

        Args:
            rows: numbers, at least one, in any order.
            kind: of this cache, not text.
        Raises:
            CacheCorrupt, CacheMismatch: as `read`.
            ShapeError: no rows, or kind text.
        """
        layout = self._layout(kind)
        places = [self._place(row) for row in rows]
        records = self._shards.records(places, [kind])[kind]
        lengths = [self._shards.index(number).lengths[row].tolist() for number, row in places]
        with within(self.location):
            return decode(self._content(records, lengths, layout), _positions(lengths, layout), layout)

    def head(self) -> StoredHead:
        """Return the teacher's head (kind full).

        Raises:
            CacheCorrupt: it is missing or damaged.
            CacheMismatch: it belongs to another cache.
        """
        return read_head(self._source, self.identity.fingerprint, self._head_entry)

    def _split(self, records: Sequence[Raw], lengths: Sequence[list[int]], layout: Layout) -> Sequence[Section]:
        content, positions = self._content(records, lengths, layout), _positions(lengths, layout)
        if not layout.joins:
            return [decode([one], [count], layout) for one, count in zip(content, positions, strict=True)]
        return decode(content, positions, layout).split(positions)

    def _content(self, records: Sequence[Raw], lengths: Sequence[list[int]], layout: RecordLayout) -> Sequence[Stored]:
        name = self.identity.compression
        if name == "none":
            return records
        return [
            decompress(record, name, most_bytes=layout.most_bytes(tokens=tokens, scored=scored))
            for record, (tokens, scored) in zip(records, lengths, strict=True)
        ]

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self.identity.rows:
            raise ShapeError("There is no such row.", where=self.location, facts=[f"row {row} of {len(self):,}"])
        number, place = divmod(int(row), self.identity.rows_per_shard)
        if number not in self._shards.entries:
            raise self._incomplete(CacheCorrupt)
        return number, place

    def _layout(self, kind: str) -> Layout:
        if kind not in self._layouts:
            raise CacheMismatch(
                f'This cache does not store "{kind}".',
                where=self.location,
                facts=[near_names(kind, self._layouts)],
                fix="build a cache with this kind",
            )
        return self._layouts[kind]

    def _incomplete(self, kind: type[CacheError]) -> CacheError:
        missing = self.missing_shards()
        return kind(
            "The cache is not complete.",
            where=self.location,
            facts=[f"{len(missing):,} of {shards_of(self.identity):,} shards are missing, the first is {missing[0]}"],
            fix="run the same `distillab cache build` again, or the run that began it: it makes what is missing; "
            "parts in several folders are joined by `distillab cache merge`",
        )


def _positions(lengths: Sequence[list[int]], layout: Layout) -> list[int]:
    return [layout.positions_of(tokens=tokens, scored=scored) for tokens, scored in lengths]
