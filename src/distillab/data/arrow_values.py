"""Convert Arrow tables (Parquet, saved data sets) to rows of Python values.

Two types need care: a float32 0.1 is 0.10000000149011612 as a Python float, and a class label is stored as a number
whose name is in the data set's features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distillab.errors import DataError

Labels = Mapping[str, Sequence[str]]


def label_names(schema: pa.Schema) -> Labels:
    """Return the class label names that the `datasets` library wrote into a file's schema, by column."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "The file's `datasets` metadata (features) cannot be read.",
            facts=[f"{type(error).__name__}: {error}"],
            fix="write the file again without metadata",
        ) from error


def table_rows(table: pa.RecordBatch | pa.Table, labels: Labels) -> list[dict[str, Any]]:
    """Return the rows of a table.

    Args:
        labels: class label names by column. −1 means no label and becomes null.
    Raises:
        DataError: a label has no name.
    """
    columns = {
        field.name: _column(table.column(place).to_pylist(), field, labels.get(field.name))
        for place, field in enumerate(table.schema)
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(values: list[Any], field: pa.Field, names: Sequence[str] | None) -> list[Any]:
    if names is not None:
        return [_label(value, field.name, names) for value in values]
    return [_shortest(value, field.type) for value in values] if _has_short_floats(field.type) else values


def _label(value: int | None, column: str, names: Sequence[str]) -> str | None:
    if value is None or value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(
            "A class label has no name.", facts=[f'column "{column}": {value}', f"names: {', '.join(names)}"]
        )
    return names[value]


def _has_short_floats(kind: pa.DataType) -> bool:
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return True
    return any(_has_short_floats(kind.field(place).type) for place in range(kind.num_fields))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """Return the Python float with the shortest digits that give the same number in the column's dtype."""
    if value is None:
        return None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return float(str((np.float32 if pa.types.is_float32(kind) else np.float16)(value)))
    if pa.types.is_struct(kind):
        return {kind.field(place).name: _shortest(value[kind.field(place).name], kind.field(place).type)
                for place in range(kind.num_fields)}  # fmt: skip
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_shortest(item, kind.value_type) for item in value]
    return value
