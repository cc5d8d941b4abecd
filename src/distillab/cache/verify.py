"""Read every byte of a cache and report what is wrong; can remove damaged shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distillab.cache.compression import check_compression, decompress
from distillab.cache.folder import read_identity, rows_of, shards_of, within
from distillab.cache.head import read_head, read_head_entry
from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import HeadEntry, ShardEntry, keep_entries, read_listing, read_manifest
from distillab.cache.kinds import Layout, decode
from distillab.cache.layout import TokensLayout
from distillab.cache.names import HEAD, HEAD_FACTS, IDENTITY, MANIFEST, SHARDS, require_own, shard_file
from distillab.cache.opened import OpenShards
from distillab.cache.rows import row_digest
from distillab.cache.sources import LocalSource, Source, open_source, sha256_of
from distillab.errors import CacheError, CacheMismatch, ConfigError
from distillab.files import remove_leftovers


@dataclass(frozen=True)
class VerifyReport:
    """The state of a cache.

    Attributes:
        location: the folder or URL.
        identity: of the cache.
        shards: how many are finished, valid or not.
        rows: of the valid ones.
        stored_bytes: of the valid ones.
        missing: unfinished shards, which a build makes.
        damaged: shard -> what is wrong, with the file. A shard file that is missing is damage.
        lists: damaged journal lines and manifests.
        head: what is wrong with the head; None: nothing, or the cache has none.
        order: the rows are not those of the identity, although every shard is valid; None: they are, or unknown.
    """

    location: str
    identity: CacheIdentity
    shards: int
    rows: int
    stored_bytes: int
    missing: tuple[int, ...]
    damaged: dict[int, CacheError]
    lists: tuple[str, ...]
    head: CacheError | None
    order: str | None

    @property
    def sound(self) -> bool:
        """Nothing is damaged; shards may still be missing."""
        return not (self.damaged or self.lists or self.head or self.order)

    @property
    def complete(self) -> bool:
        """Nothing is damaged and nothing is missing."""
        return self.sound and not self.missing


def verify(location: str | Path, *, on_shard: Callable[[int], None] | None = None) -> VerifyReport:
    """Read and check every byte: hashes of files, checksums of records, digests of rows, completeness.

    Args:
        location: a local folder or a URL.
        on_shard: called after every shard with the number that is done.
    Raises:
        CacheCorrupt: identity.json is missing or damaged.
        CacheMismatch: the format is newer, or a journal or manifest belongs to another cache.
    """
    source = open_source(location)
    identity = read_identity(source)
    listing = read_listing(source, identity)
    with within(source.location):
        check_compression(identity.compression)
    shards = OpenShards(source, identity, listing.shards)
    digests: dict[int, bytes] = {}
    damaged: dict[int, CacheError] = {}
    for done, number in enumerate(sorted(listing.shards), start=1):
        try:
            with within(source.place(listing.shards[number].file)):
                digests[number] = _check_shard(shards, number)
        except CacheError as error:
            damaged[number] = error
        if on_shard is not None:
            on_shard(done)
    missing = tuple(number for number in range(shards_of(identity)) if number not in listing.shards)
    order = None
    # the identity of kind text covers the prompts, not the answers; the reader checks them
    if not damaged and not missing and not listing.damaged and identity.decoding is None:
        found = hashlib.sha256(b"".join(digests[number] for number in sorted(digests))).hexdigest()
        if found != identity.rows_sha256:
            order = f"identity.json: rows_sha256 {identity.rows_sha256}; the stored rows: {found}"
    return VerifyReport(
        location=source.location,
        identity=identity,
        shards=len(listing.shards),
        rows=sum(len(rows_of(identity, number)) for number in digests),
        stored_bytes=sum(listing.shards[number].bytes for number in digests),
        missing=missing,
        damaged=damaged,
        lists=tuple(listing.damaged),
        head=_check_head(source, identity, listing.head, wanted=bool(listing.shards)),
        order=order,
    )


def discard_damaged(folder: Path) -> VerifyReport:
    """Remove damaged files from the folder, so that the same build makes them again.

    Damaged shards and their journal lines, lines that cannot be read, and a damaged head are removed. Only shards and
    the head of this folder are deleted: those of other folders (of a merged cache) are removed from the manifest only.

    Returns:
        the report before the removal.
    Raises:
        CacheCorrupt, CacheMismatch: as `verify`, or the folder of the shards is a link; nothing was changed.
        ConfigError: the place is not a local folder.
    """
    if "://" in str(folder):
        raise ConfigError("Only a local folder can be repaired.", where=str(folder), fix="copy it here, then back")
    report = verify(folder)
    if report.sound:
        return report
    if report.order is not None:
        raise CacheMismatch(
            "Every shard of the cache is valid, but its rows are not those of its identity.",
            where=report.location,
            facts=[report.order],
            fix="identity.json was changed or belongs to another cache: restore the right one",
        )

    shards = require_own(folder, SHARDS)

    def keep(entry: ShardEntry) -> bool:
        if entry.shard not in report.damaged:
            return True
        # by the name of this folder's shard, not by the line's; of a link only the link is removed
        (shards / Path(shard_file(entry.shard)).name).unlink(missing_ok=True)
        return False

    listed = read_manifest(LocalSource(folder), [])
    keep_entries(
        folder,
        report.identity,
        keep,
        keep_listed=lambda entry: entry.shard not in report.damaged,
        keep_head=report.head is None,
    )
    for name in (IDENTITY, MANIFEST):
        remove_leftovers(folder / name)
    own_head = listed is None or listed.head is None or listed.head.file == HEAD
    if report.head is not None and own_head:
        for name in (HEAD_FACTS, HEAD):
            (folder / name).unlink(missing_ok=True)
    return report


def _check_shard(shards: OpenShards, number: int) -> bytes:
    """Return the digests of the shard's rows, one after another."""
    entry, identity = shards.entries[number], shards.identity
    index = shards.index(number)
    if sha256_of(shards.source, entry.file, entry.bytes) != entry.sha256:
        # the checksums of the records below would not find a change between them
        shards.records([(number, row) for row in range(len(index))], shards.sections)
        raise shards.damaged(number, "its sha256 is not that of its journal line")
    layouts: list[TokensLayout | Layout] = [identity.tokens, *identity.layouts]
    for row in range(len(index)):
        records = shards.records([(number, row)], shards.sections)
        tokens, scored = index.lengths[row].tolist()
        for layout in layouts:
            most_bytes = layout.most_bytes(tokens=tokens, scored=scored)
            record = decompress(records[layout.kind][0], identity.compression, most_bytes=most_bytes)
            if isinstance(layout, TokensLayout):
                input_ids, answer_mask = layout.decode([record], [tokens])
                digest = row_digest(input_ids, answer_mask)
                if digest != index.digests[row].tobytes() or int(answer_mask.sum()) != scored:
                    raise shards.damaged(number, f"row {row} of the shard: its digest is not that of its tokens")
            else:
                decode([record], [layout.positions_of(tokens=tokens, scored=scored)], layout)
    return index.digests.tobytes()


def _check_head(
    source: Source, identity: CacheIdentity, listed: HeadEntry | None, *, wanted: bool
) -> CacheError | None:
    if not wanted or not identity.stores_head:
        return None
    try:
        read_head(source, identity.fingerprint, listed)
        entry = listed or read_head_entry(source)
        found = sha256_of(source, entry.file, entry.bytes)
    except CacheError as error:
        return error
    if found != entry.sha256:
        return CacheMismatch("The head's sha256 is not that of its entry.", where=source.place(entry.file))
    return None
