"""Records as they are, or each as one zstd frame. Packed ids and rounded values hardly shrink; texts do."""

from __future__ import annotations

from types import ModuleType

from distillab.cache.streams import Stored
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, near_names

ZSTD_LEVEL = 3


def check_compression(name: str) -> None:
    """Before anything is read or written.

    Raises:
        CacheMismatch: no compression of this name.
        ConfigError: its package is not installed.
    """
    if name == "zstd":
        _zstandard()
    elif name != "none":
        raise CacheMismatch(
            f'This version knows no compression "{name}".',
            facts=(near_names(name, ("none", "zstd")),),
            fix="read the cache with the version that made it, or a newer one",
        )


def compress(record: bytes, name: str) -> bytes:
    """A record as it stands in a shard. `name`: CacheIdentity.compression."""
    check_compression(name)
    if name == "none":
        return record
    stored: bytes = _zstandard().compress(record, ZSTD_LEVEL)
    return stored


def decompress(stored: Stored, name: str) -> Stored:
    """What `compress` was given.

    Raises:
        CacheCorrupt: the bytes are no zstd frame.
    """
    check_compression(name)
    if name == "none":
        return stored
    zstandard = _zstandard()
    try:
        record: bytes = zstandard.decompress(stored)
    except zstandard.ZstdError as error:
        raise CacheCorrupt(
            "A stored record cannot be decompressed.",
            facts=(str(error),),
            fix="`distillab cache verify` finds what is damaged",
        ) from error
    return record


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(
            "This cache is compressed with zstd, and the package zstandard is not installed.",
            fix="pip install 'distillab[zstd]', or build a cache with compression: none",
        ) from error
    return zstandard
