"""A cache as one Parquet file, for whatever else reads tables.

One row of the file is one row of the cache; row groups are the shards, so that one shard at a time is in memory.

    key                   string
    input_ids             list<int32>      answer_mask           list<bool>
    top_k_ids             list<list<int32>>, likeliest first     top_k_logp            list<list<float>>
    top_k_tail_logmass    list<float>      actual_logp           list<float>
    sampled_ids           list<list<int32>>, each drawn id once  sampled_counts        list<list<int32>>
    sampled_own_nats      list<float>
    head_input, layer.N, block.N.query, …  list<fixed_size_list<float>>
    answer, finish        string

A list has one entry a scored position; `input_ids`, `answer_mask` and states of all positions have one a token.
Log-probabilities are natural logs. The head of kind `full` is not in the table: `head.safetensors` is already a file
that everything reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import Layout, SampledLayout, StatesLayout, TextLayout, TopKLayout
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow, Sampled, Section, States, Text, TopK
from distillab.errors import ConfigError
from distillab.files import replacing


def export_parquet(reader: CacheReader, output: Path, *, on_rows: Callable[[int], None] | None = None) -> None:
    """Write all rows of a complete cache to one Parquet file.

    The identity and its fingerprint stand in the file's metadata, as `distillab.identity` and
    `distillab.fingerprint`.

    Args:
        output: made under another name first, so it is whole or not there.
        on_rows: told how many rows are done since it was called before.
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
    kinds = [layout.kind for layout in identity.layouts]
    schema = schema_of(identity)
    with replacing(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(reader), identity.rows_per_shard):
            numbers = range(start, min(start + identity.rows_per_shard, len(reader)))
            rows = reader.read(numbers, kinds)
            writer.write_table(_table(rows, identity.layouts, schema), row_group_size=len(rows))
            if on_rows is not None:
                on_rows(len(rows))


def schema_of(identity: CacheIdentity) -> pa.Schema:
    """Columns of the file, with the cache's identity as metadata."""
    fields = [("key", pa.string()), ("input_ids", pa.list_(pa.int32())), ("answer_mask", pa.list_(pa.bool_()))]
    for layout in identity.layouts:
        fields += _fields(layout)
    metadata = {"distillab.identity": identity.model_dump_json(), "distillab.fingerprint": identity.fingerprint}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata=metadata)


def _fields(layout: Layout) -> list[tuple[str, pa.DataType]]:
    integers, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    match layout:
        case TopKLayout():
            return [
                ("top_k_ids", pa.list_(integers)),
                ("top_k_logp", pa.list_(floats)),
                ("top_k_tail_logmass", floats),
                ("actual_logp", floats),
            ]
        case SampledLayout():
            return [
                ("sampled_ids", pa.list_(integers)),
                ("sampled_counts", pa.list_(integers)),
                ("sampled_own_nats", floats),
            ]
        case StatesLayout():
            return [(array.name, pa.list_(pa.list_(pa.float32(), array.width))) for array in layout.arrays]
        case TextLayout():
            return [("answer", pa.string()), ("finish", pa.string())]
        case _:
            raise AssertionError(f"tokens stand in every cache and in no list of kinds: {layout.kind}")


def _table(rows: Sequence[CachedRow], layouts: Sequence[Layout], schema: pa.Schema) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "input_ids": _ragged([row.input_ids for row in rows]),
        "answer_mask": _ragged([row.answer_mask for row in rows]),
    }
    for layout in layouts:
        columns |= _columns(layout, [row.sections[layout.kind] for row in rows])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _columns(layout: Layout, sections: Sequence[Section]) -> dict[str, pa.Array]:
    match layout:
        case TopKLayout():
            return _top_k([section for section in sections if isinstance(section, TopK)])
        case SampledLayout():
            return _sampled([section for section in sections if isinstance(section, Sampled)])
        case StatesLayout():
            states = [section for section in sections if isinstance(section, States)]
            return {
                array.name: _vectors([item.arrays[array.name] for item in states], array.width)
                for array in layout.arrays
            }
        case _:
            texts = [section for section in sections if isinstance(section, Text)]
            return {
                "answer": pa.array([item.answer for item in texts], pa.string()),
                "finish": pa.array([item.finish for item in texts], pa.string()),
            }


def _top_k(sections: Sequence[TopK]) -> dict[str, pa.Array]:
    return {
        "top_k_ids": _nested([item.ids for item in sections]),
        "top_k_logp": _nested([item.logp for item in sections]),
        "top_k_tail_logmass": _ragged([item.tail_logmass for item in sections]),
        "actual_logp": _ragged([item.actual_logp for item in sections]),
    }


def _sampled(sections: Sequence[Sampled]) -> dict[str, pa.Array]:
    positions = [len(item.distinct) for item in sections]
    lengths = np.concatenate([item.distinct for item in sections])
    ids, counts = (
        pa.array(np.concatenate(parts)) for parts in zip(*((s.ids, s.counts) for s in sections), strict=True)
    )
    return {
        "sampled_ids": _lists(positions, _lists(lengths, ids)),
        "sampled_counts": _lists(positions, _lists(lengths, counts)),
        "sampled_own_nats": _ragged([item.entropy_estimate for item in sections]),
    }


def _lists(lengths: Sequence[int] | npt.NDArray[np.integer[Any]], values: pa.Array) -> pa.Array:
    """Lists of these lengths, of values that stand one after another."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _ragged(arrays: Sequence[npt.NDArray[Any]]) -> pa.Array:
    return _lists([len(array) for array in arrays], pa.array(np.concatenate(arrays)))


def _nested(arrays: Sequence[npt.NDArray[Any]]) -> pa.Array:
    """(N, K) arrays as lists of lists of K."""
    flat = np.concatenate(arrays)
    inner = _lists(np.full(flat.shape[0], flat.shape[1]), pa.array(flat.reshape(-1)))
    return _lists([len(array) for array in arrays], inner)


def _vectors(arrays: Sequence[npt.NDArray[Any]], width: int) -> pa.Array:
    flat = np.concatenate([_as_float32(array) for array in arrays])
    return _lists(
        [len(array) for array in arrays], pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width)
    )


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """bfloat16 stands as its bits: the upper half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
