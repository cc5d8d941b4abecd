"""Compress records, each as one zstd frame. Packed ids and rounded values hardly shrink; texts do."""

from __future__ import annotations

from types import ModuleType

from distillab.cache.streams import Stored
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, near_names

ZSTD_LEVEL = 3

LARGEST_RECORD_BYTES = 2**32
"""The largest record that is compressed: a frame of a few bytes can decompress to any size."""


def check_compression(name: str) -> None:
    """Check the name of a compression, before anything is read or written.

    Raises:
        CacheMismatch: no compression of this name.
        ConfigError: its package is not installed.
    """
    if name == "zstd":
        _zstandard()
    elif name != "none":
        raise CacheMismatch(
            f'This version does not have the compression "{name}".',
            facts=(near_names(name, ("none", "zstd")),),
            fix="read the cache with the version that made it, or a newer one",
        )


def compress(record: bytes, name: str) -> bytes:
    """Return a record as it is stored in a shard. `name`: CacheIdentity.compression.

    Raises:
        ConfigError: a row's record is larger than a reader decompresses.
    """
    check_compression(name)
    if name == "none":
        return record
    if len(record) > LARGEST_RECORD_BYTES:
        raise ConfigError(
            "A row's record is too large to be compressed.",
            where="cache.compression",
            facts=(f"{len(record):,} bytes; at most {LARGEST_RECORD_BYTES:,}",),
            fix="set cache.compression: none, or store fewer layers",
        )
    stored: bytes = _zstandard().compress(record, ZSTD_LEVEL)
    return stored


def decompress(stored: Stored, name: str, *, most_bytes: int) -> Stored:
    """Return what `compress` was given.

    Args:
        most_bytes: that the record of this layout and length can have.
    Raises:
        CacheCorrupt: the bytes are no zstd frame with a stated size, or one of a larger record.
    """
    check_compression(name)
    if name == "none":
        return stored
    zstandard = _zstandard()
    most_bytes = min(most_bytes, LARGEST_RECORD_BYTES)
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= most_bytes:
            stated = f"{size:,} bytes" if size >= 0 else "no size"
            raise _not_decompressed(f"its frame states {stated}; a record of this row has at most {most_bytes:,}")
        record: bytes = zstandard.decompress(stored)
    except zstandard.ZstdError as error:
        raise _not_decompressed(str(error)) from error
    return record


def _not_decompressed(fact: str) -> CacheCorrupt:
    return CacheCorrupt(
        "A stored record cannot be decompressed.",
        facts=(fact,),
        fix="`distillab cache verify` finds what is damaged",
    )


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(
            "This cache is compressed with zstd, and the package zstandard is not installed.",
            fix="pip install 'distillab[zstd]', or build a cache with compression: none",
        ) from error
    return zstandard
