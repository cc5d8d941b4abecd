"""Decode the streams of many records in one call; a record is several streams one after another.

The module of each kind defines which streams a record has, their order and lengths. A length is not stored: it
follows from the layout and the positions of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.cache.bits import Bytes, pack, packed_bytes, unpack, unpack_streams
from distillab.errors import CacheCorrupt, CacheMismatch

Stored = bytes | memoryview | Bytes
"""The bytes of one record, as read from a file."""


def packed(values: npt.NDArray[np.integer], bits: int, what: str) -> bytes:
    """Return the packed stream of `values`, checked by reading it back.

    An id that loses a bit is another token, and no checksum over the bytes would find that.

    Raises:
        CacheMismatch: a value is negative or needs more bits.
        CacheCorrupt: the bytes read back differently (a fault of this machine or of `bits`).
    """
    if len(values) and (values.min() < 0 or int(values.max()) >> bits):
        wrong = values.min() if values.min() < 0 else values.max()
        raise CacheMismatch(
            f"The {what} do not fit into the number of bits of the cache.",
            facts=(f"largest or negative value: {wrong}", f"{bits} bits hold 0 to {(1 << bits) - 1}"),
            fix="the rows and the cache are of different vocabularies: build a cache for these rows",
        )
    stream = pack(values, bits)
    if not np.array_equal(unpack(np.frombuffer(stream, np.uint8), bits)[: len(values)], values):
        raise CacheCorrupt(
            f"The {what} that were read back are not those that were packed.",
            facts=(f"{len(values)} values at {bits} bits",),
            fix="nothing was written; if it happens again, this machine's memory is faulty",
        )
    return stream


class Cursor:
    """Walks through the records of many rows at once, one stream at a time.

    Args:
        records: one a row.
        kind: for messages.
    """

    def __init__(self, records: Iterable[Stored], kind: str) -> None:
        self._records = [np.frombuffer(record, np.uint8) for record in records]
        self._at = [0] * len(self._records)
        self._kind = kind

    def integers(self, counts: Sequence[int], bits: int) -> npt.NDArray[np.int32]:
        """Return the next stream of every row: so many packed values each; all rows' values one after another."""
        streams = self._take([packed_bytes(count, bits) for count in counts])
        return unpack_streams(streams, counts, bits).view(np.int32)

    def numbers(self, counts: Sequence[int], dtype: str) -> npt.NDArray[Any]:
        """Read the next stream of every row: so many little-endian numbers each, row after row."""
        size = np.dtype(dtype).itemsize
        return np.concatenate(self._take([count * size for count in counts])).view(dtype)

    def end(self) -> None:
        """Check that every record is used up.

        Raises:
            CacheCorrupt: bytes are left.
        """
        for i, (record, at) in enumerate(zip(self._records, self._at, strict=True)):
            if at != len(record):
                raise self._wrong_length(i, at)

    def _take(self, sizes: Sequence[int]) -> list[Bytes]:
        taken = []
        for i, (record, size) in enumerate(zip(self._records, sizes, strict=True)):
            start = self._at[i]
            self._at[i] = end = start + size
            if end > len(record):
                raise self._wrong_length(i, end)
            taken.append(record[start:end])
        return taken

    def _wrong_length(self, i: int, wanted: int) -> CacheCorrupt:
        return CacheCorrupt(
            "A stored record has another length than its layout states.",
            facts=(f"{self._kind}: {len(self._records[i])} bytes, the layout states {wanted}",),
            where=f"row {i + 1} of the {len(self._records)} that were read together",
            fix="`distillab cache verify` finds what is damaged",
        )
