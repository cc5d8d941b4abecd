"""Estimate a cache before it is built: bytes, and seconds of the teacher. N scored positions, M drawn tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillab.cache.compression import compress
from distillab.cache.identity import CacheIdentity
from distillab.cache.kinds import encode
from distillab.cache.layout import RecordLayout
from distillab.cache.rows import CachedRow
from distillab.cache.shards import TOKENS, index_bytes
from distillab.data.encoding import EncodedRow
from distillab.runs.signals import CacheJob, identity_for
from distillab.runs.teacher import RunTeacher
from distillab.study.cache_build import CacheBuild
from distillab.teachers.protocol import SignalSource
from distillab.teachers.stored.encoder import SignalEncoder
from distillab.teachers.stored.writing import batches

_BATCHES = 4  # rows that the teacher reads for an estimate, at most
_LONG_S = 15.0  # seconds after which no further batch is started
_WARM_ROWS = 2  # batches before, untimed: the first ones of a process are slower


@dataclass(frozen=True)
class PartEstimate:
    """The estimated cost of one part of a cache location.

    Attributes:
        folder: where it goes.
        source: name of the rows.
        rows, tokens, scored_tokens: of it.
        kind_bytes: "tokens", every kind, and "index" -> bytes; "head" where kind full stores it.
        measured: the kinds whose size was measured on some rows; the others are exact.
        teacher_s: seconds, estimated from some batches.
    """

    folder: Path
    source: str
    rows: int
    tokens: int
    scored_tokens: int
    kind_bytes: dict[str, int]
    measured: tuple[str, ...]
    teacher_s: float

    @property
    def total_bytes(self) -> int:
        """All of it on the disk."""
        return sum(self.kind_bytes.values())


def estimate(build: CacheBuild) -> list[PartEstimate]:
    """Return the cost of every part whose rows are known in advance: all but the teacher's answers.

    Raises:
        TeacherError: the teacher cannot be loaded.
        ConfigError: a layer or block that it does not have.
    """
    teacher = RunTeacher(build.inputs, served_in=build.served_in).source()
    return [_estimate(build, job, teacher) for job in build.jobs]


def _estimate(build: CacheBuild, job: CacheJob, teacher: SignalSource) -> PartEstimate:
    identity = identity_for(job, teacher=teacher.identity, settings=build.settings)
    maker = SignalEncoder(teacher, identity, job.view.reader.collator())
    sample = _sample(job.rows, identity.batch_size)
    maker.rows(sample[0][:_WARM_ROWS])
    read: list[CachedRow] = []
    since = time.perf_counter()
    for batch in sample:
        read += maker.rows(batch)
        elapsed = time.perf_counter() - since
        if elapsed > _LONG_S:
            break
    tokens = sum(len(row) for row in job.rows)
    sizes, measured = _kind_bytes(identity, job.rows, read)
    keys = [row.key for row in job.rows]
    sizes["index"] = index_bytes(keys, identity.kinds, rows_per_shard=identity.rows_per_shard)
    if identity.stores_head and teacher.identity.head is not None:
        sizes["head"] = teacher.identity.head.bytes
    return PartEstimate(
        folder=job.folder,
        source=job.source,
        rows=len(job.rows),
        tokens=tokens,
        scored_tokens=sum(int(row.answer_mask.sum()) for row in job.rows),
        kind_bytes=sizes,
        measured=measured,
        teacher_s=elapsed / sum(len(row.input_ids) for row in read) * tokens,
    )


def _sample(rows: Sequence[EncodedRow], size: int) -> list[list[EncodedRow]]:
    """Return batches of rows from all over the data, sorted by length as in recording; in any order."""
    chance = random.Random(0)
    drawn = chance.sample(range(len(rows)), min(len(rows), size * _BATCHES))
    chosen = [rows[number] for number in sorted(drawn)]
    found = [[chosen[index] for index in indices] for indices in batches([len(row) for row in chosen], size)]
    chance.shuffle(found)
    return found


def _kind_bytes(
    identity: CacheIdentity, rows: Sequence[EncodedRow], read: Sequence[CachedRow]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return "tokens" and every kind -> bytes of its records; and those kinds that were measured on the rows `read`."""
    packed = identity.compression != "none"
    measured = [TOKENS] if packed else []
    tokens = [identity.tokens.encode(row.input_ids, row.answer_mask) for row in read]
    found = {TOKENS: _stored_bytes(identity.tokens, rows, tokens, identity.compression)}
    for layout in identity.layouts:
        sections = [row.sections[layout.kind] for row in read]
        records = [encode(section, layout) for section in sections]
        each = layout.values_each(sections)
        found[layout.kind] = _stored_bytes(layout, rows, records, identity.compression, each=each)
        measured += [layout.kind] if packed or each is not None else []
    return found, tuple(measured)


def _stored_bytes(
    layout: RecordLayout,
    rows: Sequence[EncodedRow],
    records: Sequence[bytes],
    compression: str,
    *,
    each: float | None = None,
) -> int:
    whole = sum(layout.record_bytes(tokens=len(row), scored=int(row.answer_mask.sum()), each=each) for row in rows)
    if compression == "none":
        return whole
    return round(whole * sum(len(compress(record, compression)) for record in records) / sum(map(len, records)))
