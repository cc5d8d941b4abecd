"""Encode and decode activations: the kinds `full` (the head's input), `hidden_states` and `attention_inputs`.

P positions of a row at which they are stored (of all rows together after decoding), D width of an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from distillab.cache.layout import BYTES, WIDEST, Cell, ColumnType, KindLayout, Section, cuts
from distillab.cache.streams import Cursor, Stored
from distillab.cache.values import from_int8_rows, int8_rows
from distillab.config.layer_terms import Positions
from distillab.errors import NumericsError, ShapeError
from distillab.records.base import Record

# the dtype of an array in memory, and in the file
_IN_MEMORY = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "int8": "float32"}
_IN_FILE = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}

_SCALE_BYTES = 2
_BFLOAT16_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True, eq=False)
class States(Section):
    """name -> (P, D) numbers. float32 or float16; bfloat16 as its uint16 bits; int8 is decoded to float32."""

    arrays: dict[str, npt.NDArray[np.generic]]

    def split(self, lengths: Sequence[int]) -> list[States]:
        """See `Section`."""
        return [States({name: array[cut] for name, array in self.arrays.items()}) for cut in cuts(lengths)]


class StateArray(Record):
    """One tensor of the teacher: (P, width) numbers a row.

    name: `head_input` (full), `layer.N` (hidden_states), `block.N.query`, `.key`, `.value` (attention_inputs).
    """

    name: str
    width: int = Field(ge=1, le=WIDEST)
    store: Literal["float32", "float16", "bfloat16", "int8"]


class StatesLayout(KindLayout):
    """Tensors of one kind, in their order."""

    section: ClassVar[type[Section]] = States

    kind: Literal["full", "hidden_states", "attention_inputs"]
    positions: Positions
    arrays: tuple[StateArray, ...] = Field(min_length=1, max_length=2**12)

    @property
    def head_inputs(self) -> int:
        """The width of kind full, which stores the teacher's head once."""
        return self.arrays[0].width if self.kind == "full" else 0

    def positions_of(self, *, tokens: int, scored: int) -> int:
        """Return P: L where all positions are stored, else N."""
        return tokens if self.positions == "all" else scored

    def encode(self, section: States) -> bytes:
        """Return the record of one row: the arrays in the layout's order.

        An array is its (P, D) numbers, little-endian, row by row; as int8 first P float16 scales, then the P·D codes.

        Args:
            section: float32 arrays where the layout has float32 or int8, float16 where float16, and where bfloat16
                its bits as uint16.
        Raises:
            ShapeError: other names, shapes or dtypes than the layout's.
            NumericsError: a number is not finite, or too large for int8.
        """
        names = [array.name for array in self.arrays]
        positions = {array.shape[0] for array in section.arrays.values() if array.ndim}
        if set(section.arrays) != set(names) or len(positions) > 1:
            given = ", ".join(f"{name} {array.shape}" for name, array in section.arrays.items()) or "none"
            raise ShapeError(
                "A row's states have other names or positions than those of the cache.",
                facts=(f"given: {given}", f"the cache: {', '.join(names)}"),
            )
        return b"".join(_encode_array(section.arrays[array.name], array) for array in self.arrays)

    def decode(self, records: Sequence[Stored], lengths: Sequence[int]) -> States:
        """Return the rows one after another; int8 comes back as float32, everything else as it was given.

        Args:
            records: one a row.
            lengths: P of each row.
        Raises:
            CacheCorrupt: a record is not of the length of its layout.
        """
        cursor = Cursor(records, self.kind)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for array in self.arrays:
            entries = [positions * array.width for positions in lengths]
            if array.store == "int8":
                scale_P = cursor.numbers(lengths, "<f2")
                codes_PD = cursor.numbers(entries, "i1").reshape(-1, array.width)
                arrays[array.name] = from_int8_rows(scale_P, codes_PD)
            else:
                arrays[array.name] = cursor.numbers(entries, _IN_FILE[array.store]).reshape(-1, array.width)
        cursor.end()
        return States(arrays)

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """See `RecordLayout`."""
        scales = sum(_SCALE_BYTES for array in self.arrays if array.store == "int8")
        each = scales + sum(array.width * BYTES[array.store] for array in self.arrays)
        return self.positions_of(tokens=tokens, scored=scored) * each

    def described(self) -> str:
        """See `RecordLayout`."""
        arrays = ", ".join(f"{array.name} ({array.width} × {array.store})" for array in self.arrays)
        return f"{arrays} at {self.positions} positions"

    def columns(self) -> Mapping[str, tuple[ColumnType, int]]:
        """See `KindLayout`."""
        return {array.name: ("vectors", array.width) for array in self.arrays}

    def cells(self, section: States) -> Mapping[str, Cell]:
        """Return column -> cell of one row."""
        return section.arrays


def _encode_array(states_PD: npt.NDArray[Any], array: StateArray) -> bytes:
    wanted = _IN_MEMORY[array.store]
    if states_PD.dtype != wanted or states_PD.ndim != 2 or states_PD.shape[1] != array.width:
        raise ShapeError(
            "A state has another shape or dtype than the cache states.",
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
            fix="check the teacher: overflow (try teacher.dtype: float32 or bfloat16), or damaged weights",
        )
    if array.store == "int8":
        scale_P, codes_PD = int8_rows(states_PD)
        return scale_P.tobytes() + codes_PD.tobytes()
    return states_PD.astype(_IN_FILE[array.store], copy=False).tobytes()
