"""Write a cache: one worker's share of the shards, each atomically, in any order, by any number of workers.

A shard is made in memory, written under a name that no other process uses, synced, linked to its final name (which must
be free), and then recorded in the worker's journal. A build that is killed loses the current shard only: files in no
journal are removed and made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from distillab.cache.compression import check_compression, compress
from distillab.cache.folder import claim, rows_of, shards_of
from distillab.cache.head import StoredHead, write_head
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import Journal, ShardEntry, read_listing
from distillab.cache.kinds import encode
from distillab.cache.names import SHARDS, require_own, shard_file, shard_number
from distillab.cache.rows import CachedRow, row_digest
from distillab.cache.shards import TOKENS, ShardRow, checksum, make_shard
from distillab.cache.sources import LocalSource, not_there
from distillab.errors import CacheMismatch, ConfigError, ShapeError
from distillab.files import place_new


class CacheWriter:
    """One of several workers: worker i of n makes the shards with number % n == i.

    Args:
        folder: created if it does not exist; otherwise it must have the same identity, and the build continues.
        identity: of the cache.
        worker: from 0.
    Raises:
        CacheMismatch: the folder has another identity.
        CacheCorrupt: identity.json or a journal is damaged, or a finished shard is missing.
        ConfigError: there is no such worker, or zstd is wanted and not installed.
        StorageError: the disk is full.
    """

    def __init__(self, folder: Path, identity: CacheIdentity, *, worker: int = 0, workers: int = 1) -> None:
        if not 0 <= worker < workers:
            raise ConfigError(
                "Workers are numbered from 0.",
                facts=[f"worker {worker} of {workers}"],
                fix=f"0 to {workers - 1}" if workers > 0 else "at least one worker",
            )
        check_compression(identity.compression)
        self.folder, self.identity = folder, identity
        self._worker, self._workers, self._fingerprint = worker, workers, identity.fingerprint
        claim(folder, identity)
        self._journal = Journal(folder, worker, workers)
        source = LocalSource(folder)
        listing = read_listing(source, identity)
        listing.require_sound()
        for entry in listing.shards.values():
            if source.size(entry.file) is None:
                raise not_there(source.place(entry.file))
        self._finished = set(listing.shards)
        self._remove_leftovers()

    def todo(self) -> list[int]:
        """Return numbers of the shards that this worker has still to make."""
        return [n for n in range(shards_of(self.identity)) if self._mine(n) and n not in self._finished]

    def write(self, number: int, rows: Sequence[CachedRow]) -> None:
        """Make one shard; when this returns, it is finished and a power cut does not lose it.

        Args:
            number: of `todo()`.
            rows: the rows number · rows_per_shard … of the cache, in their order, each with a section of every kind.
        Raises:
            ShapeError: not the shard's rows, or a section does not fit its layout.
            NumericsError: the teacher's numbers are not finite.
            CacheMismatch: an id does not fit, or another process writes under this worker's name.
            StorageError: the disk is full; finished shards are kept.
        """
        wanted = rows_of(self.identity, number)
        if number not in self.todo() or len(rows) != len(wanted):
            raise ShapeError(
                "These are not the rows of a shard that this worker has to make.",
                where=str(self.folder),
                facts=[
                    f"shard {number}: {len(wanted)} rows; given: {len(rows)}",
                    f"to make: {len(self.todo())} shards",
                ],
                fix="give all rows of one of the shards that todo() names",
            )
        sections = [TOKENS, *self.identity.kinds]
        stored = [self._stored(row) for row in rows]
        content, index_bytes = make_shard(stored, sections, number=number, fingerprint=self._fingerprint)
        path = self.folder / shard_file(number)
        if not place_new(path, content):
            raise CacheMismatch(
                "Another process writes into this cache under the same worker's name.",
                where=str(path),
                facts=[f"this is worker {self._worker} of {self._workers}"],
                fix="let one of them finish, or give each another --worker i/n",
            )
        entry = ShardEntry(
            shard=number,
            file=shard_file(number),
            rows=len(rows),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            index_bytes=index_bytes,
            index_xxh3=f"{checksum(memoryview(content)[:index_bytes]):016x}",
            fingerprint=self._fingerprint,
        )
        self._journal.append(entry.sealed())
        self._finished.add(number)

    def write_head(self, head: StoredHead) -> None:
        """Store the teacher's head (kind full). Raises as `head.write_head`."""
        write_head(self.folder, head, self._fingerprint)

    def _stored(self, row: CachedRow) -> ShardRow:
        kinds = self.identity.kinds
        if set(row.sections) != set(kinds):
            raise ShapeError(
                "A row has other sections than the cache.",
                where=f"row {row.key}",
                facts=[f"the row: {', '.join(row.sections) or 'none'}", f"the cache: {', '.join(sorted(kinds))}"],
            )
        records = {TOKENS: self.identity.tokens.encode(row.input_ids, row.answer_mask)}
        records |= {layout.kind: encode(row.sections[layout.kind], layout) for layout in self.identity.layouts}
        return ShardRow(
            key=row.key,
            digest=row_digest(row.input_ids, row.answer_mask),
            tokens=len(row.input_ids),
            scored=int(row.answer_mask.sum()),
            records={name: compress(record, self.identity.compression) for name, record in records.items()},
        )

    def _mine(self, number: int) -> bool:
        return number % self._workers == self._worker

    def _remove_leftovers(self) -> None:
        """Remove files of this worker's share that are unfinished: a process died between them and the journal."""
        for path in require_own(self.folder, SHARDS).iterdir():
            number = shard_number(path.name)
            unfinished = path.suffix == ".tmp" or number not in self._finished
            if number is not None and self._mine(number) and unfinished:
                path.unlink(missing_ok=True)
