"""Read and write one shard file: a header, an index and records. FORMAT.md, *A shard*, is the specification.

It is a safetensors file (the header is JSON, the rest flat arrays), so any safetensors library opens it. R rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from distillab.cache.layout import FORMAT_VERSION

Raw = bytes | memoryview
"""Bytes as they come from a file."""

TOKENS = "tokens"
FORMAT_NAME = "distillab-cache"

INDEX_ROW_BYTES = 16 + 16 + 8 + 16
"""Smallest size of a row in a shard's index: lengths, end and checksum of its tokens, end of its key, digest."""

_ALIGNMENT = 8
_INDEX_ARRAYS: Mapping[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "lengths": (np.int64, (2,)),
    "ends": (np.int64, ()),
    "xxh3": (np.uint64, ()),
    "digests": (np.uint8, (16,)),
}
"""The end of an array's name -> its dtype, and its shape after the rows."""

_DTYPES = {"I64": "<i8", "U64": "<u8", "U8": "u1", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class BadBytes(Exception):
    """The bytes are no file of this format; the caller adds the file's name."""


@dataclass(frozen=True, eq=False)
class ShardRow:
    """A row as it goes into a shard. records: section -> its bytes; "tokens" and every kind of the cache."""

    key: str
    digest: bytes
    tokens: int
    scored: int
    records: Mapping[str, bytes]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Places and checksums of a shard's records.

    Attributes:
        metadata: format, format_version, fingerprint and number of the shard, as text.
        lengths: (R, 2) int64, the tokens L and the scored positions N of each row.
        ends: section -> (R,) int64, where each row's record ends in the section's bytes.
        checksums: section -> (R,) uint64, xxh3 of each record as it is stored.
        starts: section -> where its bytes begin in the file.
        digests: (R, 16) uint8.
        size: bytes that the whole file must have.
    """

    metadata: Mapping[str, str]
    lengths: npt.NDArray[np.int64]
    ends: Mapping[str, npt.NDArray[np.int64]]
    checksums: Mapping[str, npt.NDArray[np.uint64]]
    starts: Mapping[str, int]
    digests: npt.NDArray[np.uint8]
    size: int
    _keys: tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.lengths)

    def row_keys(self) -> list[str]:
        """Return the names of the rows."""
        ends, text = self._keys
        whole, starts = text.tobytes(), [0, *ends.tolist()]
        return [whole[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=False)]

    def row_key(self, row: int) -> str:
        """Return the name of one row."""
        ends, text = self._keys
        return text[int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes().decode()

    def record(self, section: str, row: int) -> tuple[int, int, int]:
        """Return (first byte in the file, the byte behind the last, checksum) of one record."""
        ends, start = self.ends[section], self.starts[section]
        before = int(ends[row - 1]) if row else 0
        return start + before, start + int(ends[row]), int(self.checksums[section][row])


def make_shard(
    rows: Sequence[ShardRow], sections: Sequence[str], *, number: int, fingerprint: str
) -> tuple[bytes, int]:
    """Return the bytes of a shard, the same for the same rows.

    Args:
        rows: in the order of the cache.
        sections: in their order: "tokens", then the kinds.
    Returns:
        the whole file; how many bytes of it are header and index.
    """
    keys = [row.key.encode() for row in rows]
    tensors: list[tuple[str, npt.NDArray[Any]]] = [
        ("lengths", np.array([(row.tokens, row.scored) for row in rows], "<i8").reshape(-1, 2))
    ]
    for section in sections:
        records = [row.records[section] for row in rows]
        tensors.append((f"{section}.ends", np.cumsum([len(record) for record in records], dtype="<i8")))
        tensors.append((f"{section}.xxh3", np.array([checksum(record) for record in records], "<u8")))
    tensors.append(("keys.ends", np.cumsum([len(key) for key in keys], dtype="<i8")))
    tensors.append(("digests", np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, 16)))
    tensors.append(("keys", np.frombuffer(b"".join(keys), np.uint8)))
    index = len(tensors)
    tensors += [
        (f"{name}.bytes", np.frombuffer(b"".join(row.records[name] for row in rows), np.uint8)) for name in sections
    ]
    metadata = {
        "format": FORMAT_NAME,
        "format_version": str(FORMAT_VERSION),
        "fingerprint": fingerprint,
        "shard": str(number),
    }
    head = safetensors_header(tensors, metadata)
    index_bytes = len(head) + sum(array.nbytes for _, array in tensors[:index])
    return b"".join((head, *(array.tobytes() for _, array in tensors))), index_bytes


def index_bytes(keys: Sequence[str], kinds: Sequence[str], *, rows_per_shard: int) -> int:
    """Return the bytes of all shards without their records: headers, keys, digests, lengths, ends and checksums.

    Exact but for some digits in the headers, which state where the records end.

    Args:
        keys: of all rows, in their order.
        kinds: of the cache.
    """
    sections = [TOKENS, *kinds]
    nothing = dict.fromkeys(sections, b"")
    return sum(
        make_shard(
            [ShardRow(key, bytes(16), 0, 0, nothing) for key in keys[start : start + rows_per_shard]],
            sections,
            number=start // rows_per_shard,
            fingerprint="0" * 64,
        )[1]
        for start in range(0, len(keys), rows_per_shard)
    )


def parse_index(buffer: Raw, sections: Sequence[str]) -> ShardIndex:
    """Return the index of a shard, as views into `buffer`.

    Args:
        buffer: header and index, checked against their checksum; bytes behind them are not read.
        sections: that the cache has.
    Raises:
        BadBytes: it is no shard of these sections.
    """
    metadata, places, size = parse_safetensors(buffer)
    wanted = [
        "lengths",
        *(f"{s}.{part}" for s in sections for part in ("ends", "xxh3")),
        "keys.ends",
        "digests",
        "keys",
    ]
    wanted += [f"{section}.bytes" for section in sections]
    if list(places) != wanted:
        raise BadBytes(f"its arrays are {', '.join(places)}; wanted: {', '.join(wanted)}")
    arrays = {name: places[name].array(buffer) for name in wanted if not name.endswith(".bytes")}
    _check_index(arrays, {name: places[name] for name in wanted if name.endswith(".bytes")})
    return ShardIndex(
        metadata=metadata,
        lengths=arrays["lengths"],
        ends={section: arrays[f"{section}.ends"] for section in sections},
        checksums={section: arrays[f"{section}.xxh3"] for section in sections},
        starts={section: places[f"{section}.bytes"].start for section in sections},
        digests=arrays["digests"],
        size=size,
        _keys=(arrays["keys.ends"], arrays["keys"]),
    )


def _check_index(arrays: Mapping[str, npt.NDArray[Any]], records: Mapping[str, Place]) -> None:
    """Refuse an index with numbers beyond the shard; only a faulty or hostile writer makes one."""
    rows = len(arrays["lengths"]) if arrays["lengths"].ndim else -1
    for name, array in arrays.items():
        dtype, shape = _INDEX_ARRAYS.get(name.rpartition(".")[2], (np.uint8, ()))
        if name != "keys" and (array.dtype != dtype or array.shape != (rows, *shape)):
            raise BadBytes(f"its array {name} is {array.dtype} {array.shape}")
    sizes = {f"{name.removesuffix('.bytes')}.ends": place.count for name, place in records.items()}
    for name, size in {**sizes, "keys.ends": arrays["keys"].size}.items():
        ends = arrays[name]
        if (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if rows else 0) != size:
            raise BadBytes(f"its array {name} does not divide {size:,} bytes into {rows} parts")
    keys, ends = arrays["keys"], arrays["keys.ends"]
    try:
        keys.tobytes().decode()
    except UnicodeDecodeError as error:
        raise BadBytes(f"its keys are not UTF-8: {error}") from error
    if keys.dtype != np.uint8 or (keys[ends[ends < keys.size]] & 0xC0 == 0x80).any():
        raise BadBytes("its keys do not end between letters")
    lengths = arrays["lengths"]
    if (lengths < 0).any() or (lengths[:, 1] > lengths[:, 0]).any():
        raise BadBytes("its array lengths has a negative number, or more scored positions than tokens")


def checksum(data: Raw) -> int:
    """Return the xxh3 checksum, 64 bits, seed 0."""
    return xxhash.xxh3_64_intdigest(data)


@dataclass(frozen=True)
class Place:
    """The place of an array in a safetensors file; `dtype` as safetensors writes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def array(self, buffer: Raw) -> npt.NDArray[Any]:
        """Return a view of it; bfloat16 as its uint16 bits.

        Raises:
            BadBytes: the buffer ends before it does.
        """
        dtype = np.dtype(_DTYPES[self.dtype])
        if self.start + self.count * dtype.itemsize > len(buffer):
            raise BadBytes("it ends before its arrays do")
        return np.frombuffer(buffer, dtype, self.count, self.start).reshape(self.shape)


def safetensors_header(
    tensors: Sequence[tuple[str, npt.NDArray[Any]]], metadata: Mapping[str, str], *, bfloat16: bool = False
) -> bytes:
    """Return the header of a file with the arrays in this order, without gaps.

    Args:
        bfloat16: uint16 arrays are bits of bfloat16 numbers.
    """
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items() if bfloat16 or name != "BF16"}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in tensors:
        end = start + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def parse_safetensors(buffer: Raw) -> tuple[dict[str, str], dict[str, Place], int]:
    """Return the metadata, the arrays in their order, and how many bytes the file must have.

    Raises:
        BadBytes: it is no safetensors file, or its arrays do not follow one another without gaps.
    """
    length = int.from_bytes(bytes(buffer[:8]), "little")
    if length > len(buffer) - 8:
        raise BadBytes(f"it states a header of {length:,} bytes, but ends before")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]))
        metadata, start, places = header.pop("__metadata__"), 8 + length, {}
        for name, facts in header.items():
            begin, end = facts["data_offsets"]
            shape = tuple(facts["shape"])
            if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
                raise BadBytes(f"the shape or the place of the array {name} is no whole number")
            place = Place(facts["dtype"], shape, 8 + length + begin)
            item = np.dtype(_DTYPES[place.dtype]).itemsize
            if place.start != start or end - begin != item * place.count:
                raise BadBytes(f"the array {name} does not begin where the one before it ends")
            start, places[name] = 8 + length + end, place
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadBytes(f"its header is damaged ({repr(error)[:200]})") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadBytes("its header's __metadata__ is no object of texts")
    return metadata, places, start
