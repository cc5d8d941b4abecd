"""Base classes of the record layouts of all kinds, and the layout that every cache has: the tokens.

The module of each kind has its layout (part of the identity: all that a reader needs to find the numbers), its content
in memory, and the encoding between the two; `kinds.py` lists them. FORMAT.md, *Records*, is the specification.

Shape letters: N scored positions of a row, L tokens of a row, P positions at which activations are stored (N or L).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from distillab.cache.bits import packed_bytes
from distillab.cache.streams import Cursor, Stored, packed
from distillab.errors import ShapeError
from distillab.records.base import Record

FORMAT_VERSION = 1

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "companded8": 1}
"""Bytes of one number, by the way in which it is stored."""

WIDEST = 2**24
"""The largest size that a layout can state: far beyond any model, and small enough that no reader overflows."""

ColumnType = Literal["text", "floats", "int lists", "float lists", "vectors"]
"""The content of a column of an exported table: a text, or one number, list or (D,) vector a position."""

Cell = Any
"""text: str. floats: (N,). lists: (N, K), or the values one after another with the (N,) lengths. vectors: (P, D)."""


class Section:
    """The content of one row in one kind; decoded from a file, of many rows, joined along their positions."""

    def split(self, lengths: Sequence[int]) -> Sequence[Section]:
        """Return one section a row: views into this one's memory.

        Args:
            lengths: positions of each row, as they were given to `decode`.
        """
        raise NotImplementedError


def cuts(lengths: Sequence[int]) -> list[slice]:
    """Return where each of several rows lies among all positions."""
    return [slice(start, end) for start, end in pairwise([0, *np.cumsum(lengths).tolist()])]


class RecordLayout(Record):
    """The layout of a record, whatever its kind."""

    def positions_of(self, *, tokens: int, scored: int) -> int:
        """Return how many positions a row of so many tokens, so many of them scored, has in records of this layout."""
        return scored

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """Return the bytes of one row's record without compression.

        Args:
            tokens: L of the row.
            scored: N of the row.
            each: values a position, if lengths do not decide them (`values_each`); default: the largest possible.
        Raises:
            ShapeError: a text, whose length is not known in advance.
        """
        raise NotImplementedError

    def most_bytes(self, *, tokens: int, scored: int) -> int:
        """Return the most bytes that one row's record can have without compression; a text has far fewer."""
        return self.record_bytes(tokens=tokens, scored=scored)

    def described(self) -> str:
        """Return the settings in one line, for people."""
        raise NotImplementedError


class TokensLayout(RecordLayout):
    """The row's ids, and which of its tokens are scored; in every cache."""

    kind: Literal["tokens"] = "tokens"
    id_bits: int = Field(ge=1, le=32)

    def encode(self, input_ids: Ints, answer_mask: npt.NDArray[np.bool_]) -> bytes:
        """Return the record of one row: L ids packed at id_bits, then L bits of the mask packed at 1.

        Args:
            input_ids, answer_mask: (L,).
        Raises:
            ShapeError: not of one length.
            CacheMismatch: an id does not fit.
        """
        if input_ids.ndim != 1 or input_ids.shape != answer_mask.shape:
            facts = (f"ids {input_ids.shape}, mask {answer_mask.shape}",)
            raise ShapeError("A row's ids and mask differ.", facts=facts)
        return packed(input_ids, self.id_bits, "token ids") + packed(answer_mask.astype(np.uint8), 1, "mask")

    def decode(self, records: Sequence[Stored], lengths: Sequence[int]) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Return (sum of L,) ids and mask, the rows one after another.

        Args:
            records: one a row.
            lengths: L of each.
        Raises:
            CacheCorrupt: a record is not of the length of its layout.
        """
        cursor = Cursor(records, self.kind)
        input_ids = cursor.integers(lengths, self.id_bits)
        answer_mask = cursor.integers(lengths, 1).astype(np.bool_)
        cursor.end()
        return input_ids, answer_mask

    def positions_of(self, *, tokens: int, scored: int) -> int:
        """Return L."""
        return tokens

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """See `RecordLayout`."""
        return packed_bytes(tokens, self.id_bits) + packed_bytes(tokens, 1)

    def described(self) -> str:
        """See `RecordLayout`."""
        return f"{self.id_bits} bits an id"


class KindLayout(RecordLayout):
    """The layout of a kind: one section a row.

    Attributes:
        section: what a row has in memory.
        joins: whether the records of several rows are decoded into one section.
        head_inputs: numbers a position that the teacher's head reads; 0 if the kind has no head.
    """

    section: ClassVar[type[Section]]
    joins: ClassVar[bool] = True

    @property
    def head_inputs(self) -> int:
        """See the class."""
        return 0

    @property
    def stores_head(self) -> bool:
        """Whether the teacher's head belongs to the cache."""
        return self.head_inputs > 0

    def values_each(self, sections: Sequence[Section]) -> float | None:
        """Return the values a position in some rows; None where the lengths of a row decide its size."""
        return None

    def columns(self) -> Mapping[str, tuple[ColumnType, int]]:
        """Return name -> type of every column of an exported table, with the width of a vector."""
        raise NotImplementedError
