"""The cost of a cache before it is built: bytes, and seconds of the teacher. N scored positions, M drawn tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillab.cache.compression import compress
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import Layout, SampledLayout, TokensLayout
from distillab.cache.rows import CachedRow, Sampled
from distillab.cache.sections import encode, encode_tokens
from distillab.cache.shards import TOKENS
from distillab.cache.sizes import index_bytes, record_bytes
from distillab.data.encoding import EncodedRow
from distillab.runs.signals import CacheJob, identity_for
from distillab.runs.teacher import RunTeacher
from distillab.study.cache_build import Plan
from distillab.teachers.protocol import SignalSource
from distillab.teachers.recording import batches
from distillab.teachers.row_making import SignalEncoder

_BATCHES = 4  # that the teacher reads for an estimate, at most
_LONG_S = 15.0  # after so many seconds no further batch is begun
_WARM_ROWS = 2  # that it reads before, untimed: the first ones of a process are slower


@dataclass(frozen=True)
class PartEstimate:
    """What one part of a cache location will cost.

    Attributes:
        folder: where it goes.
        source: name of the rows.
        rows, tokens, scored_tokens: of it.
        kind_bytes: "tokens", every kind, and "index" -> bytes; "head" where kind full stores it.
        measured: those of them that were measured on some rows; the others are exact.
        teacher_s: seconds, from some batches.
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


def estimate(plan: Plan) -> list[PartEstimate]:
    """The cost of every part whose rows are known before: all but the teacher's own answers.

    Raises:
        TeacherError: the teacher cannot be loaded.
        ConfigError: a layer or block that it does not have.
    """
    teacher = RunTeacher(plan.inputs).source()
    return [_estimate(plan, recording, teacher) for recording in plan.recordings]


def _estimate(plan: Plan, recording: CacheJob, teacher: SignalSource) -> PartEstimate:
    identity = identity_for(recording, teacher=teacher.identity, settings=plan.settings)
    maker = SignalEncoder(teacher, identity, recording.view.reader.collator())
    sample = _sample(recording.rows, identity.batch_size)
    maker.rows(sample[0][:_WARM_ROWS])
    read: list[CachedRow] = []
    since = time.perf_counter()
    for batch in sample:
        read += maker.rows(batch)
        elapsed = time.perf_counter() - since
        if elapsed > _LONG_S:
            break
    tokens = sum(len(row) for row in recording.rows)
    sizes = _kind_bytes(identity, recording.rows, read)
    keys = [row.key for row in recording.rows]
    sizes["index"] = index_bytes(
        keys, [layout.kind for layout in identity.layouts], rows_per_shard=identity.rows_per_shard
    )
    if "full" in sizes and teacher.identity.head is not None:
        sizes["head"] = teacher.identity.head.bytes
    packed = identity.compression != "none"
    kinds = [TOKENS, *(layout.kind for layout in identity.layouts)]
    return PartEstimate(
        folder=recording.folder,
        source=recording.source,
        rows=len(recording.rows),
        tokens=tokens,
        scored_tokens=sum(int(row.answer_mask.sum()) for row in recording.rows),
        kind_bytes=sizes,
        measured=tuple(kind for kind in kinds if packed or kind == "sampled"),
        teacher_s=elapsed / sum(len(row.input_ids) for row in read) * tokens,
    )


def _sample(rows: Sequence[EncodedRow], size: int) -> list[list[EncodedRow]]:
    """Batches of rows from all over the data, like lengths together, as they will be recorded; in any order."""
    chance = random.Random(0)
    drawn = chance.sample(range(len(rows)), min(len(rows), size * _BATCHES))
    chosen = [rows[number] for number in sorted(drawn)]
    found = [[chosen[index] for index in indices] for indices in batches([len(row) for row in chosen], size)]
    chance.shuffle(found)
    return found


def _kind_bytes(identity: CacheIdentity, rows: Sequence[EncodedRow], read: Sequence[CachedRow]) -> dict[str, int]:
    layouts: list[Layout] = [identity.tokens, *identity.layouts]
    lengths = [(len(row), int(row.answer_mask.sum())) for row in rows]
    found: dict[str, int] = {}
    for layout in layouts:
        each = _drawn_each(read) if isinstance(layout, SampledLayout) else 0.0
        whole = sum(
            record_bytes(
                layout,
                tokens=tokens,
                scored=scored,
                distinct=round(each * scored) if isinstance(layout, SampledLayout) else None,
            )
            for tokens, scored in lengths
        )
        found[layout.kind] = round(whole * _shrinks(layout, identity.compression, read))
    return found


def _drawn_each(read: Sequence[CachedRow]) -> float:
    """Distinct tokens that are drawn a position: M / N."""
    drawn = [section for row in read for section in row.sections.values() if isinstance(section, Sampled)]
    return sum(len(section.ids) for section in drawn) / sum(len(section.distinct) for section in drawn)


def _shrinks(layout: Layout, compression: str, read: Sequence[CachedRow]) -> float:
    """Stored bytes of a kind's records by their bytes before compression."""
    if compression == "none":
        return 1.0
    records = [
        encode_tokens(row.input_ids, row.answer_mask, layout)
        if isinstance(layout, TokensLayout)
        else encode(row.sections[layout.kind], layout)
        for row in read
    ]
    return sum(len(compress(record, compression)) for record in records) / sum(map(len, records))
