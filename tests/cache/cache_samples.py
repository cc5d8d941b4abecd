"""Small caches of every kind, made without a teacher and without chance, so that they are the same everywhere."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.head import StoredHead
from distillab.cache.identity import CacheIdentity, TeacherSizes
from distillab.cache.kinds import Layout
from distillab.cache.layout import Section, TokensLayout
from distillab.cache.next_tokens import Sampled, SampledLayout, TopK, TopKLayout
from distillab.cache.rows import CachedRow, row_digest
from distillab.cache.text import Text, TextLayout
from distillab.cache.writer import CacheWriter
from distillab.records.sources import TeacherProvenance

VOCABULARY = 300
BITS = 9
K = 3
DRAWS = 5

LAYOUTS: dict[str, Layout] = {
    "top_k": TopKLayout(k=K, id_bits=BITS, values="companded8", temperature=1.0),
    "sampled": SampledLayout(draws=DRAWS, id_bits=BITS, count_bits=3, temperature=2.0),
    "full": StatesLayout(
        kind="full", positions="answer", arrays=(StateArray(name="head_input", width=4, store="bfloat16"),)
    ),
    "hidden_states": StatesLayout(
        kind="hidden_states",
        positions="all",
        arrays=(
            StateArray(name="layer.0", width=3, store="int8"),
            StateArray(name="layer.2", width=2, store="float32"),
        ),
    ),
    "attention_inputs": StatesLayout(
        kind="attention_inputs",
        positions="all",
        arrays=tuple(
            StateArray(name=f"block.1.{name}", width=2, store="float16") for name in ("query", "key", "value")
        ),
    ),
    "text": TextLayout(),
}
ALL = tuple(LAYOUTS)


def sample_rows(count: int, kinds: Sequence[str] = ALL) -> list[CachedRow]:
    """Rows of different lengths; no two alike."""
    return [_row(i, kinds) for i in range(count)]


def sample_identity(rows: Sequence[CachedRow], kinds: Sequence[str] = ALL, **changes: Any) -> CacheIdentity:
    """Of these rows, two a shard."""
    digest = hashlib.sha256(b"".join(row_digest(row.input_ids, row.answer_mask) for row in rows)).hexdigest()
    fields: dict[str, Any] = {
        "teacher": TeacherProvenance(
            name="teacher", weights_sha256="ab" * 32, parameters=1234, dtype="float32", template_sha256="cd" * 32
        ),
        "revision": None,
        "sizes": TeacherSizes(blocks=2, width=4, heads=2, key_value_heads=1, head_width=2),
        "tokenizer": "ef" * 32,
        "template_sha256": "01" * 32,
        "width": VOCABULARY,
        "source": "rows.jsonl",
        "rows": len(rows),
        "rows_sha256": digest,
        "tokens": TokensLayout(id_bits=BITS),
        "layouts": tuple(LAYOUTS[kind] for kind in kinds),
        "compression": "none",
        "seed": 0,
        "rows_per_shard": 2,
        "batch_size": 2,
        "decoding": None,
        "engine": {"torch": "2.13.0", "device": "cpu"},
    }
    return CacheIdentity(**(fields | changes))


def sample_head() -> StoredHead:
    """A bfloat16 head with a bias, as bits."""
    weight = (np.arange(VOCABULARY * 4, dtype=np.uint16).reshape(VOCABULARY, 4) * 7 % 997 + 0x3C00).astype(np.uint16)
    return StoredHead(weight, np.arange(VOCABULARY, dtype=np.uint16), multiplier=0.125, cap=30.0)


def build(
    folder: Path, rows: Sequence[CachedRow], identity: CacheIdentity, *, worker: int = 0, workers: int = 1
) -> None:
    """Write what is still to do of this worker's share."""
    writer = CacheWriter(folder, identity, worker=worker, workers=workers)
    if any(layout.kind == "full" for layout in identity.layouts):
        writer.write_head(sample_head())
    size = identity.rows_per_shard
    for number in writer.todo():
        writer.write(number, rows[number * size : (number + 1) * size])


def tree(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def numbers(section: Section) -> dict[str, Any]:
    """What a section says, as lists."""
    if isinstance(section, Text):
        return {"answer": section.answer, "finish": section.finish}
    arrays = section.arrays if isinstance(section, States) else vars(section)
    return {name: array.tolist() for name, array in arrays.items()}


def _row(i: int, kinds: Sequence[str]) -> CachedRow:
    length = 4 + i % 5
    ids = (np.arange(length) * 37 + i * 11) % VOCABULARY
    mask = np.arange(length) >= 2
    mask[-1] = i % 2 == 0 or length == 4
    scored = int(mask.sum())
    made = {kind: _section(kind, i, length, scored) for kind in kinds}
    return CachedRow(f"row/{i}-é", ids.astype(np.int32), mask, made)


def _section(kind: str, i: int, length: int, scored: int) -> Section:
    positions = scored if kind in ("top_k", "sampled", "full") else length
    at = np.arange(positions)
    if kind == "top_k":
        parts = [(8 + (n + i) % 3, 4, 2, 3 - (n + i) % 3) for n in range(positions)]
        logs = np.array([[math.log(part / 17) if part else -math.inf for part in row] for row in parts], np.float32)
        ids = (at[:, None] * 29 + np.arange(K) * 101 + i) % VOCABULARY
        return TopK(ids.astype(np.int32), logs[:, :K], logs[:, K], logs[:, 1])
    if kind == "sampled":
        distinct = 1 + (at + i) % 3
        counts = [count for n in distinct.tolist() for count in [1] * (n - 1) + [DRAWS - n + 1]]
        ids = (np.arange(int(distinct.sum())) * 53 + i) % VOCABULARY
        own = (at / 4 + i / 8).astype(np.float32)
        return Sampled(distinct.astype(np.int32), ids.astype(np.int32), np.array(counts, np.int32), own)
    if kind == "text":
        return Text(f"answer {i}: ×½", "stop" if i % 2 else "length")
    layout = LAYOUTS[kind]
    assert isinstance(layout, StatesLayout)
    return States({array.name: _states(array, positions, i) for array in layout.arrays})


def _states(array: StateArray, positions: int, i: int) -> np.ndarray:
    values = (np.arange(positions * array.width).reshape(positions, array.width) - 3 * i) / 16
    if array.store == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if array.store == "float16" else np.float32)
