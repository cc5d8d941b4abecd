"""Open and check the shards of a cache: their indexes, and records by row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from distillab.cache.folder import newer_format, rows_of
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import ShardEntry, foreign
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.shards import FORMAT_NAME, TOKENS, BadBytes, Raw, ShardIndex, checksum, parse_index
from distillab.cache.sources import LocalSource, Range, Source
from distillab.errors import CacheCorrupt, CacheMismatch

# A local index is quickly read again, so few are kept in memory; remote ones are kept.
_LOCAL_INDEXES = 128


class OpenShards:
    """Read records of a cache's shards; every record is confirmed by its checksum.

    Args:
        source: of the cache.
        identity: of the cache.
        entries: number -> its entry.
    """

    def __init__(self, source: Source, identity: CacheIdentity, entries: dict[int, ShardEntry]) -> None:
        self.source, self.identity, self.entries = source, identity, entries
        self.sections = (TOKENS, *identity.kinds)
        self._fingerprint = identity.fingerprint
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        local = isinstance(self.source, LocalSource)
        return {**self.__dict__, "_indexes": OrderedDict() if local else self._indexes}

    def count_rows(self) -> int:
        """Return rows of all shards, each of which has at least the size of its entry, if that can be checked.

        Raises:
            CacheCorrupt: a shard of a local cache is missing, or has another size.
        """
        for number, entry in self.entries.items():
            self._check_size(number, entry)
        return sum(entry.rows for entry in self.entries.values())

    def open_all(self) -> Iterator[tuple[int, ShardIndex]]:
        """Return every shard's number and index, checked; the numbers rise.

        Raises:
            CacheCorrupt: a shard is missing, cut off or damaged.
            CacheMismatch: a shard belongs to another cache or place, or is of a newer format.
        """
        numbers = sorted(self.entries)
        if isinstance(self.source, LocalSource):
            for number in numbers:
                yield number, self.index(number)
            return
        # a request a shard, all of them at once
        ranges = [(self.entries[number].file, 0, self.entries[number].index_bytes) for number in numbers]
        for number, content in zip(numbers, self.source.read(ranges), strict=True):
            self._indexes[number] = self._checked(number, content)
        for number in numbers:
            yield number, self._indexes[number]

    def index(self, number: int) -> ShardIndex:
        """Return the index of one shard, checked. Raises as `open_all`."""
        found = self._indexes.get(number)
        if found is not None:
            self._indexes.move_to_end(number)
            return found
        entry = self.entries[number]
        self._check_size(number, entry)
        (content,) = self.source.read([(entry.file, 0, entry.index_bytes)])
        index = self._indexes[number] = self._checked(number, content)
        if isinstance(self.source, LocalSource) and len(self._indexes) > _LOCAL_INDEXES:
            self._indexes.popitem(last=False)
        return index

    def records(self, places: Sequence[tuple[int, int]], sections: Sequence[str]) -> dict[str, list[Raw]]:
        """Return raw records of rows, each confirmed by its checksum.

        Args:
            places: (shard, row in it).
            sections: of each.
        Returns:
            section -> a record a place.
        Raises:
            CacheCorrupt: a record is damaged.
        """
        ranges: list[Range] = []
        wanted: list[tuple[str, int, int, int]] = []
        for section in sections:
            for number, row in places:
                start, end, check = self.index(number).record(section, row)
                ranges.append((self.entries[number].file, start, end))
                wanted.append((section, number, row, check))
        found: dict[str, list[Raw]] = {section: [] for section in sections}
        for (section, number, row, check), content in zip(wanted, self.source.read(ranges), strict=True):
            if checksum(content) != check:
                first = rows_of(self.identity, number).start
                raise self.damaged(number, f"row {first + row}: its record of {section} is not what was written")
            found[section].append(content)
        return found

    def _check_size(self, number: int, entry: ShardEntry) -> None:
        size = self.source.size(entry.file)
        if size is not None and size != entry.bytes:
            raise self.damaged(number, f"it has {size:,} bytes; {entry.bytes:,} were written")

    def _checked(self, number: int, content: Raw) -> ShardIndex:
        entry, place = self.entries[number], self.source.place(self.entries[number].file)
        if f"{checksum(content):016x}" != entry.index_xxh3:
            raise self.damaged(number, self._why(number, content))
        try:
            index = parse_index(content, self.sections)
        except BadBytes as error:
            raise self.damaged(number, str(error)) from error
        facts = index.metadata
        if facts.get("format_version") != str(FORMAT_VERSION) or facts.get("format") != FORMAT_NAME:
            raise newer_format(place, facts.get("format_version"))
        if facts.get("fingerprint") != self._fingerprint:
            raise foreign(place, self._fingerprint, facts.get("fingerprint", "none"))
        if facts.get("shard") != str(number):
            raise CacheMismatch(
                "A shard has another shard's number.",
                where=place,
                facts=[f"listed as shard {number}", f"it is shard {facts.get('shard')}"],
                fix="rename the files back",
            )
        if not len(index) == entry.rows == len(rows_of(self.identity, number)) or index.size != entry.bytes:
            raise self.damaged(number, f"it has {len(index)} rows and {index.size:,} bytes, by its own index")
        return index

    def _why(self, number: int, content: Raw) -> str:
        """Return what a shard is instead, if it is known: another valid shard, put here by mistake."""
        for other, entry in self.entries.items():
            if (
                len(content) >= entry.index_bytes
                and f"{checksum(content[: entry.index_bytes]):016x}" == entry.index_xxh3
            ):
                return f"its index is that of shard {other}: the files were exchanged"
        return "its index is not what was written"

    def damaged(self, number: int, fact: str) -> CacheCorrupt:
        """Return the error of a shard whose bytes are not what was written."""
        return CacheCorrupt(
            f"Shard {number} of the cache is damaged.",
            where=self.source.place(self.entries[number].file),
            facts=[fact],
            fix="`distillab cache verify --discard` removes damaged shards; the same build then makes them again",
        )
