"""Store the teacher's head once, beside the rows of kind full: it turns a stored state into logits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from distillab.cache.journals import HeadEntry, foreign
from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.names import HEAD, HEAD_FACTS
from distillab.cache.shards import FORMAT_NAME, BadBytes, checksum, parse_safetensors, safetensors_header
from distillab.cache.sources import Source, not_there
from distillab.errors import CacheCorrupt, CacheMismatch, ShapeError
from distillab.files import place_new, remove_leftovers

_DTYPES = ("float32", "float16", "uint16")


@dataclass(frozen=True, eq=False)
class StoredHead:
    """logits = f(h Wᵀ + b), f(x) = cap · tanh(x · multiplier / cap), or x · multiplier without a cap.

    weight: (W, D) and bias: (W,), both float32, float16, or uint16: the bits of bfloat16.
    """

    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None = None
    multiplier: float = 1.0
    cap: float | None = None


def write_head(folder: Path, head: StoredHead, fingerprint: str) -> None:
    """Write the head into a cache; several writers can write the same head.

    Raises:
        CacheMismatch: another head is there, or a damaged one.
        ShapeError: not a weight of (W, D) and a bias of (W,), both of one of the three dtypes.
        StorageError: the disk is full.
    """
    content = _file(head, fingerprint)
    entry = HeadEntry(
        file=HEAD,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        fingerprint=fingerprint,
        xxh3=f"{checksum(content):016x}",
    ).sealed()
    _place(folder / HEAD, content)
    _place(folder / HEAD_FACTS, entry.model_dump_json(indent=2).encode() + b"\n")


def read_head(source: Source, fingerprint: str, entry: HeadEntry | None = None) -> StoredHead:
    """Return the head of a cache.

    Args:
        entry: of a merged cache's manifest; None: of head.json.
    Raises:
        CacheCorrupt: it is missing or damaged.
        CacheMismatch: it belongs to another cache.
    """
    entry = entry or read_head_entry(source)
    place = source.place(entry.file)
    if entry.fingerprint != fingerprint:
        raise foreign(source.place(HEAD_FACTS), fingerprint, entry.fingerprint)
    size = source.size(entry.file)
    if size is not None and size != entry.bytes:
        raise _corrupt(place, f"it has {size:,} bytes; {entry.bytes:,} were written")
    (content,) = source.read([(entry.file, 0, entry.bytes)])
    if f"{checksum(content):016x}" != entry.xxh3:
        raise _corrupt(place, "it is not what was written")
    try:
        metadata, places, _ = parse_safetensors(content)
        arrays = {name: there.array(content) for name, there in places.items()}
    except BadBytes as error:
        raise _corrupt(place, str(error)) from error
    if metadata.get("fingerprint") != fingerprint:
        raise foreign(place, fingerprint, metadata.get("fingerprint", "none"))
    try:
        cap = metadata["cap"]
        # copies, which can be changed
        return StoredHead(
            weight=arrays["weight"].copy(),
            bias=arrays["bias"].copy() if "bias" in arrays else None,
            multiplier=float(metadata["multiplier"]),
            cap=None if cap == "none" else float(cap),
        )
    except (KeyError, ValueError) as error:
        raise _corrupt(place, f"it has no sound weight, multiplier or cap ({error!r})") from error


def read_head_entry(source: Source) -> HeadEntry:
    """Return the entry in head.json.

    Raises:
        CacheCorrupt: it is missing or damaged.
    """
    content = source.whole(HEAD_FACTS)
    if content is None:
        raise not_there(source.place(HEAD_FACTS))
    try:
        entry = HeadEntry.model_validate_json(content)
    except ValidationError as error:
        raise _corrupt(source.place(HEAD_FACTS), error.errors()[0]["msg"]) from error
    if not entry.sound:
        raise _corrupt(source.place(HEAD_FACTS), "it is not what was written")
    if entry.file != HEAD:
        raise _corrupt(source.place(HEAD_FACTS), f"it names the file {entry.file!a}, which is no head of this cache")
    return entry


def _file(head: StoredHead, fingerprint: str) -> bytes:
    tensors: list[tuple[str, npt.NDArray[Any]]] = [("weight", head.weight)]
    if head.bias is not None:
        tensors.append(("bias", head.bias))
    dtype = head.weight.dtype
    sound = head.weight.ndim == 2 and dtype.name in _DTYPES
    if head.bias is not None:
        sound = sound and head.bias.dtype == dtype and head.bias.shape == head.weight.shape[:1]
    if not sound:
        raise ShapeError(
            "A head is a weight of (W, D) and a bias of (W,) of the same dtype.",
            facts=[f"{name}: {array.dtype} {array.shape}" for name, array in tensors],
            fix=f"one of {', '.join(_DTYPES)} (the bits of bfloat16)",
        )
    metadata = {
        "format": FORMAT_NAME,
        "format_version": str(FORMAT_VERSION),
        "fingerprint": fingerprint,
        "multiplier": repr(float(head.multiplier)),
        "cap": "none" if head.cap is None else repr(float(head.cap)),
    }
    little = [(name, np.ascontiguousarray(array, array.dtype.newbyteorder("<"))) for name, array in tensors]
    header = safetensors_header(little, metadata, bfloat16=True)
    return b"".join((header, *(array.tobytes() for _, array in little)))


def _place(path: Path, content: bytes) -> None:
    if path.exists() or not place_new(path, content):
        there = path.read_bytes()
        if there != content:
            raise CacheMismatch(
                "The head in this cache is not the teacher's, or it is damaged.",
                where=str(path),
                facts=[f"there: xxh3 {checksum(there):016x}", f"to write: xxh3 {checksum(content):016x}"],
                fix="`distillab cache verify --discard` removes a damaged head; then run the same command again",
            )
    remove_leftovers(path)


def _corrupt(place: str, fact: str) -> CacheCorrupt:
    return CacheCorrupt(
        "The stored head of the teacher is damaged.",
        where=place,
        facts=[fact],
        fix="`distillab cache verify --discard` removes it; the same build then writes it again",
    )
