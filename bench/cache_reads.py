"""Reading what is on the disk (in the system's memory by then): rows at random, and the opening of a large cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.cache_rows import identity_of_rows, rows_of, sampled_layout, top_k_layout
from bench.measure import percentile
from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.kinds import Layout
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow, row_digest
from distillab.cache.writer import CacheWriter

_AT_ONCE = 32
_CALLS = 40
_ROWS, _POSITIONS = 1_024, 200
_WIDTH = 512
_SHARDS, _ROWS_A_SHARD = 1_000, 64

_STATES = StatesLayout(
    kind="full", positions="answer", arrays=(StateArray(name="head_input", width=_WIDTH, store="bfloat16"),)
)


def reads(rounds: int) -> list[dict[str, Any]]:
    """One entry a kind and round: MB of stored bytes and tokens a second, on the wall and of CPU time.

    Batches of 32 rows at random, their checksums verified, decoded to arrays (`read_flat`).
    """
    layouts: dict[str, Layout] = {"top_k 64": top_k_layout(64), "sampled 50": sampled_layout(50), "states": _STATES}
    with tempfile.TemporaryDirectory() as folder:
        readers = {name: _written(Path(folder) / name, layout) for name, layout in layouts.items()}
        found = []
        for number in range(1, rounds + 1):
            for name, layout in layouts.items():
                reader, stored = readers[name]
                wall, cpu = _timed(reader, layout.kind, seed=number)
                rows = _AT_ONCE * _CALLS
                found.append(
                    {
                        "round": number,
                        "case": name,
                        "row_bytes": stored / _ROWS,
                        "mb_per_wall_s": rows * stored / _ROWS / wall / 1e6,
                        "mb_per_cpu_s": rows * stored / _ROWS / cpu / 1e6,
                        "tokens_per_cpu_s": rows * _POSITIONS / cpu,
                    }
                )
        return found


def opening(rounds: int) -> list[dict[str, Any]]:
    """Seconds until a cache of 1,000 shards (64,000 rows) is open, its indices verified, and one row is found in it."""
    layout = sampled_layout(12)
    share = rows_of([layout], _ROWS_A_SHARD, positions=8)
    # the same numbers in every shard under other ids, so that every row is another one
    rows = [_renamed(row, number) for number in range(_SHARDS) for row in share]
    with tempfile.TemporaryDirectory() as folder:
        identity = identity_of_rows([layout], rows, rows_per_shard=_ROWS_A_SHARD)
        writer = CacheWriter(Path(folder), identity)
        for number in writer.todo():
            writer.write(number, rows[number * _ROWS_A_SHARD : (number + 1) * _ROWS_A_SHARD])
        digest = row_digest(rows[-1].input_ids, rows[-1].answer_mask)
        found = []
        for number in range(1, rounds + 1):
            wall, cpu = clocks(lambda: CacheReader(folder).find(digest))
            found.append(
                {"round": number, "case": f"{_SHARDS:,} shards, {len(rows):,} rows", "wall_s": wall, "cpu_s": cpu}
            )
        return found


def clocks(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call: on the wall, and of CPU time over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def _timed(reader: CacheReader, kind: str, *, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    batches = [rng.permutation(_ROWS)[:_AT_ONCE].tolist() for _ in range(_CALLS)]
    reader.read_flat(batches[0], kind)
    taken = [clocks(partial(reader.read_flat, batch, kind)) for batch in batches]
    return percentile([wall for wall, _ in taken], 0.5) * _CALLS, percentile([cpu for _, cpu in taken], 0.5) * _CALLS


def _written(folder: Path, layout: Layout) -> tuple[CacheReader, int]:
    """A cache of one kind, and the bytes of all its records."""
    rows = _state_rows() if isinstance(layout, StatesLayout) else rows_of([layout], _ROWS, positions=_POSITIONS)
    identity = identity_of_rows([layout], rows, rows_per_shard=128)
    writer = CacheWriter(folder, identity)
    for number in writer.todo():
        writer.write(number, rows[number * 128 : (number + 1) * 128])
    return CacheReader(folder), sum(path.stat().st_size for path in (folder / "shards").iterdir())


def _state_rows() -> list[CachedRow]:
    rng = np.random.default_rng(0)
    states = rng.integers(0, 0x7F00, (_POSITIONS, _WIDTH), dtype=np.uint16)
    plain = rows_of([], _ROWS, positions=_POSITIONS)
    return [
        CachedRow(row.key, row.input_ids, row.answer_mask, {"full": States({"head_input": states})}) for row in plain
    ]


def _renamed(row: CachedRow, number: int) -> CachedRow:
    ids = row.input_ids.copy()
    ids[0] = number
    return CachedRow(f"{row.key}-{number}", ids, row.answer_mask, row.sections)
