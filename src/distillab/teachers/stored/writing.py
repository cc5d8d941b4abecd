"""Run a source over rows once and write its signal into a cache.

A shard's batches are made from the shard's own rows, sorted by length, independent of what is in the folder: a
recording that was killed and resumed, or shared by several workers, holds the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import TokensLayout
from distillab.cache.rows import CachedRow, row_digest
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, KindConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch
from distillab.progress import Progress
from distillab.teachers.protocol import SignalSource, TeacherIdentity, announce
from distillab.teachers.stored.activations import stored_head
from distillab.teachers.stored.encoder import SignalEncoder
from distillab.teachers.stored.kinds import resolve_layouts, teacher_sizes


@dataclass(frozen=True)
class CacheWriteResult:
    """The result of one call of `write_cache`.

    rows, tokens, scored_tokens: that the teacher read. teacher_s: seconds of the teacher, with its head and the choice
    of tokens; encoding and writing run at the same time. wall_s: in all.
    """

    rows: int
    tokens: int
    scored_tokens: int
    teacher_s: float
    wall_s: float


def identity_of(
    teacher: TeacherIdentity,
    rows: Sequence[EncodedRow],
    settings: CacheConfig,
    *,
    kinds: Sequence[KindConfig],
    width: int,
    tokenizer: str,
    template_sha256: str,
    source: str,
    template_date: datetime.date | None = None,
) -> CacheIdentity:
    """Return everything that decides what `write_cache` writes.

    Args:
        rows: all rows of the cache, in their order.
        settings: seed, rows a shard, batch size and compression; its kinds may be unresolved, `kinds` counts.
        kinds: what is stored.
        width: the distribution is over the ids 0 … width-1.
        tokenizer: fingerprint of the tokenizer that made the rows' ids.
        template_sha256: of the template that made their text; the teacher's own is in its provenance.
        source: name of the rows, for messages.
        template_date: the day of the template, if it writes one.
    Raises:
        ConfigError: a kind does not fit the teacher.
    """
    layouts = resolve_layouts(
        kinds,
        shape=teacher.shape,
        dtype=teacher.dtype,
        width=width,
        head_inputs=teacher.head.inputs if teacher.head else 0,
    )
    return CacheIdentity(
        teacher=teacher.provenance,
        revision=teacher.revision,
        sizes=teacher_sizes(teacher.shape),
        tokenizer=tokenizer,
        template_sha256=template_sha256,
        template_date=template_date,
        width=width,
        source=source,
        rows=len(rows),
        rows_sha256=rows_sha256(rows),
        tokens=TokensLayout(id_bits=bits_for(teacher.input_ids)),
        layouts=layouts,
        compression=settings.compression,
        seed=settings.seed,
        rows_per_shard=settings.rows_per_shard,
        batch_size=settings.batch_size,
        decoding=None,
        engine=teacher.engine,
    )


def rows_sha256(rows: Sequence[EncodedRow]) -> str:
    """Return the hash over the digests of all rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row_digest(row.input_ids, row.answer_mask))
    return digest.hexdigest()


def write_cache(
    source: SignalSource,
    rows: Sequence[EncodedRow],
    *,
    collator: Collator,
    identity: CacheIdentity,
    writer: CacheWriter,
) -> CacheWriteResult:
    """Write all missing shards of this writer.

    While one shard is encoded and written by a thread, the source continues with the next; so up to two shards are in
    memory.

    Args:
        rows: all rows of the cache, in their order; only those of missing shards are read.
        collator: pads a batch.
        identity: of these rows (`identity_of`).
        writer: of the same identity.
    Raises:
        CacheMismatch: the rows are not those of the identity.
        TeacherError: the source does not give what a kind stores.
        NumericsError: the teacher's numbers are not finite; the shards before are kept.
        StorageError: the disk is full.
    """
    _require_same_rows(rows, identity)
    encoder = SignalEncoder(source, identity, collator)
    todo = writer.todo()
    begun = time.perf_counter()
    size = identity.rows_per_shard
    shares = {number: rows[number * size : (number + 1) * size] for number in todo}
    total, teacher_s, head_written = sum(map(len, shares.values())), 0.0, False
    announce(source, [(len(row), int(row.answer_mask.sum())) for share in shares.values() for row in share])
    with (
        ThreadPoolExecutor(max_workers=1) as thread,
        Progress(f"teacher on {identity.source}", total=total, unit="rows") as progress,
    ):
        writing: Future[None] | None = None
        for number, share in shares.items():
            made: list[CachedRow | None] = [None] * len(share)
            for places in batches([len(row) for row in share], identity.batch_size):
                since = time.perf_counter()
                for place, row in zip(places, encoder.rows([share[place] for place in places]), strict=True):
                    made[place] = row
                teacher_s += time.perf_counter() - since
                progress.advance(len(places))
            if encoder.head is not None and not head_written and identity.stores_head:
                writer.write_head(stored_head(encoder.head))
                head_written = True
            if writing is not None:
                writing.result()
            writing = thread.submit(writer.write, number, cast(list[CachedRow], made))
        if writing is not None:
            writing.result()
    return CacheWriteResult(
        rows=total,
        tokens=sum(len(row) for share in shares.values() for row in share),
        scored_tokens=sum(int(row.answer_mask.sum()) for share in shares.values() for row in share),
        teacher_s=teacher_s,
        wall_s=time.perf_counter() - begun,
    )


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the places of a shard's rows, sorted by length; only the lengths decide."""
    places = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    return [places[start : start + size] for start in range(0, len(places), size)]


def _require_same_rows(rows: Sequence[EncodedRow], identity: CacheIdentity) -> None:
    found = rows_sha256(rows)
    if (len(rows), found) != (identity.rows, identity.rows_sha256):
        raise CacheMismatch(
            "The rows to record are not those of the cache.",
            where=identity.source,
            facts=[
                f"the cache: {identity.rows} rows, sha256 {identity.rows_sha256[:16]}…",
                f"given: {len(rows)} rows, sha256 {found[:16]}…",
            ],
            fix="make the identity from the same rows",
        )
