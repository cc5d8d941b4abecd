"""Records of a teacher's inner states: `full` (its head's input), `hidden_states` and `attention_inputs`.

P positions of a row at which states are stored (of all rows together after decoding), D width of an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.cache.layout import StateArray, StatesLayout
from distillab.cache.rows import States
from distillab.cache.streams import Cursor, Stored
from distillab.cache.values import from_int8_rows, int8_rows
from distillab.errors import NumericsError, ShapeError

# what an array is in memory, and in the file
_IN_MEMORY = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "int8": "float32"}
_IN_FILE = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}

_BFLOAT16_EXPONENT = np.uint16(0x7F80)


def encode_states(row: States, layout: StatesLayout) -> bytes:
    """The record of one row: the arrays in the layout's order.

    An array is its (P, D) numbers, little-endian, row by row; as int8 first P float16 scales, then the P·D codes.

    Args:
        row: float32 arrays where the layout says float32 or int8, float16 where float16, and where bfloat16 its bits
            as uint16.
    Raises:
        ShapeError: other names, shapes or dtypes than the layout's.
        NumericsError: a number is not finite, or too large for int8.
    """
    names = [array.name for array in layout.arrays]
    positions = {array.shape[0] for array in row.arrays.values() if array.ndim}
    if set(row.arrays) != set(names) or len(positions) > 1:
        raise ShapeError(
            "A row's states are not those of the cache, or not at the same positions.",
            facts=(
                f"given: {', '.join(f'{name} {array.shape}' for name, array in row.arrays.items()) or 'none'}",
                f"the cache: {', '.join(names)}",
            ),
        )
    return b"".join(_encode_array(row.arrays[array.name], array) for array in layout.arrays)


def decode_states(records: Sequence[Stored], lengths: Sequence[int], layout: StatesLayout) -> States:
    """The rows one after another; int8 comes back as float32, everything else as it was given.

    Args:
        records: one a row.
        lengths: P of each row.
    Raises:
        CacheCorrupt: a record is not as long as the layout says.
    """
    cursor = Cursor(records, layout.kind)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for array in layout.arrays:
        entries = [positions * array.width for positions in lengths]
        if array.store == "int8":
            scale_P = cursor.numbers(lengths, "<f2")
            codes_PD = cursor.numbers(entries, "i1").reshape(-1, array.width)
            arrays[array.name] = from_int8_rows(scale_P, codes_PD)
        else:
            arrays[array.name] = cursor.numbers(entries, _IN_FILE[array.store]).reshape(-1, array.width)
    cursor.end()
    return States(arrays)


def _encode_array(states_PD: npt.NDArray[Any], array: StateArray) -> bytes:
    wanted = _IN_MEMORY[array.store]
    if states_PD.dtype != wanted or states_PD.ndim != 2 or states_PD.shape[1] != array.width:
        raise ShapeError(
            "A state has another shape or dtype than the cache says.",
            facts=(f"given: {states_PD.dtype} {states_PD.shape}", f"the cache: {wanted} (P, {array.width})"),
            where=array.name,
        )
    if array.store == "bfloat16":
        finite = (states_PD & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT
    else:
        finite = np.isfinite(states_PD)
    if not finite.all():
        position, place = np.argwhere(~finite)[0]
        raise NumericsError(
            "A state of the teacher is not finite.",
            facts=(f"at position {position} of the row, number {place}",),
            where=array.name,
            fix="look at the teacher: overflow (try teacher.dtype: float32 or bfloat16), or damaged weights",
        )
    if array.store == "int8":
        scale_P, codes_PD = int8_rows(states_PD)
        return scale_P.tobytes() + codes_PD.tobytes()
    return states_PD.astype(_IN_FILE[array.store], copy=False).tobytes()
