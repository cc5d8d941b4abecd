"""Export a cache as one Parquet file, for other programs.

One row of the file is one row of the cache; row groups are the shards, so that one shard at a time is in memory.

    key                   string
    input_ids             list<int32>      answer_mask           list<bool>
    top_k_ids             list<list<int32>>, most likely first   top_k_logp            list<list<float>>
    top_k_tail_logmass    list<float>      actual_logp           list<float>
    sampled_ids           list<list<int32>>, each drawn id once  sampled_counts        list<list<int32>>
    sampled_own_nats      list<float>
    head_input, layer.N, block.N.query, …  list<fixed_size_list<float>>
    answer, finish        string

A list has one entry a scored position; `input_ids`, `answer_mask` and states of all positions have one a token.
Log-probabilities are natural logs. The head of kind `full` is not in the table: `head.safetensors` is already a plain
safetensors file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from distillab.cache.identity import CacheIdentity
from distillab.cache.kinds import Layout
from distillab.cache.layout import Cell, ColumnType
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow
from distillab.errors import ConfigError
from distillab.files import replacing


def export_parquet(reader: CacheReader, output: Path, *, on_rows: Callable[[int], None] | None = None) -> None:
    """Write all rows of a complete cache to one Parquet file.

    The identity and its fingerprint are in the file's metadata, as `distillab.identity` and
    `distillab.fingerprint`.

    Args:
        output: written under another name first, so that it is complete or does not exist.
        on_rows: called with the number of rows that are done since the call before.
    Raises:
        ConfigError: `output` is there already.
        CacheMismatch: rows are missing.
        CacheCorrupt: stored bytes are damaged.
        StorageError: the disk is full.
    """
    if output.exists():
        raise ConfigError("The output file is there already.", where=str(output), fix="delete it, or set --output")
    identity = reader.identity
    reader.require_complete()
    schema = schema_of(identity)
    with replacing(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(reader), identity.rows_per_shard):
            numbers = range(start, min(start + identity.rows_per_shard, len(reader)))
            rows = reader.read(numbers, identity.kinds)
            writer.write_table(_table(rows, identity.layouts, schema), row_group_size=len(rows))
            if on_rows is not None:
                on_rows(len(rows))


def schema_of(identity: CacheIdentity) -> pa.Schema:
    """Return the columns of the file, with the cache's identity as metadata."""
    fields = [("key", pa.string()), ("input_ids", pa.list_(pa.int32())), ("answer_mask", pa.list_(pa.bool_()))]
    for layout in identity.layouts:
        fields += [(name, _arrow_type(kind, width)) for name, (kind, width) in layout.columns().items()]
    metadata = {"distillab.identity": identity.model_dump_json(), "distillab.fingerprint": identity.fingerprint}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata=metadata)


def _arrow_type(kind: ColumnType, width: int) -> pa.DataType:
    match kind:
        case "text":
            return pa.string()
        case "floats":
            return pa.list_(pa.float32())
        case "int lists":
            return pa.list_(pa.list_(pa.int32()))
        case "float lists":
            return pa.list_(pa.list_(pa.float32()))
        case "vectors":
            return pa.list_(pa.list_(pa.float32(), width))


def _table(rows: Sequence[CachedRow], layouts: Sequence[Layout], schema: pa.Schema) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "input_ids": _ragged([row.input_ids for row in rows]),
        "answer_mask": _ragged([row.answer_mask for row in rows]),
    }
    for layout in layouts:
        cells_of: Callable[[Any], Mapping[str, Cell]] = layout.cells  # exactly this type of section
        cells = [cells_of(row.sections[layout.kind]) for row in rows]
        for name, (kind, width) in layout.columns().items():
            columns[name] = _column([cell[name] for cell in cells], kind, width)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _column(cells: Sequence[Cell], kind: ColumnType, width: int) -> pa.Array:
    match kind:
        case "text":
            return pa.array(cells, pa.string())
        case "floats":
            return _ragged(cells)
        case "vectors":
            flat = pa.array(np.concatenate([_as_float32(array) for array in cells]).reshape(-1))
            return _lists([len(array) for array in cells], pa.FixedSizeListArray.from_arrays(flat, width))
        case _:
            pairs = [cell if isinstance(cell, tuple) else (cell.reshape(-1), _widths(cell)) for cell in cells]
            values, lengths = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            return _lists([len(each) for _, each in pairs], _lists(lengths, pa.array(values)))


def _widths(array_NK: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.full(array_NK.shape[0], array_NK.shape[1], np.int64)


def _lists(lengths: Sequence[int] | npt.NDArray[np.integer[Any]], values: pa.Array) -> pa.Array:
    """Return lists of these lengths, of values that follow one another."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _ragged(arrays: Sequence[npt.NDArray[Any]]) -> pa.Array:
    return _lists([len(array) for array in arrays], pa.array(np.concatenate(arrays)))


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert bfloat16, which is stored as its bits (the upper half of a float32)."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
