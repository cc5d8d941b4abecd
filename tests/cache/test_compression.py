"""zstd a record, and what is said where its package is absent."""

from __future__ import annotations

import sys

import pytest

from distillab.cache.compression import check_compression, compress, decompress
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError


@pytest.mark.parametrize("name", ["none", "zstd"])
@pytest.mark.parametrize("record", [b"", b"s", b"Once upon a time " * 100, bytes(range(256))])
def test_a_record_comes_back(name: str, record: bytes) -> None:
    stored = compress(record, name)
    assert bytes(decompress(stored, name, most_bytes=2000)) == record
    assert stored == compress(record, name)


def test_a_text_shrinks() -> None:
    text = b"Once upon a time there was a little girl. " * 50
    assert len(compress(text, "zstd")) < len(text) / 10
    assert compress(text, "none") == text


def test_a_memory_view_is_enough() -> None:
    stored = memoryview(b"!" + compress(b"story", "zstd"))[1:]
    assert bytes(decompress(stored, "zstd", most_bytes=5)) == b"story"


def test_what_is_no_frame_is_damage() -> None:
    for damaged in (b"", b"no frame", compress(b"a story that is long enough", "zstd")[:-5]):
        with pytest.raises(CacheCorrupt, match="decompressed"):
            decompress(damaged, "zstd", most_bytes=100)


def test_a_frame_that_becomes_more_than_a_record_can_be_is_not_decompressed() -> None:
    import zstandard

    bomb = compress(bytes(2**24), "zstd")
    assert len(bomb) < 2000
    with pytest.raises(CacheCorrupt, match=r"its frame states 16,777,216 bytes; .* at most 2,000"):
        decompress(bomb, "zstd", most_bytes=2000)
    # the length of a frame that says none is known when it is too late
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**24))
    with pytest.raises(CacheCorrupt, match="its frame states no size"):
        decompress(silent, "zstd", most_bytes=2**25)


def test_a_compression_of_later_versions_is_refused() -> None:
    for call in (
        lambda: check_compression("brotli"),
        lambda: compress(b"", "brotli"),
        lambda: decompress(b"", "zst", most_bytes=1),
    ):
        with pytest.raises(CacheMismatch, match=r"known: none, zstd|did you mean"):
            call()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install 'distillab\[zstd\]'"):
        check_compression("zstd")
    check_compression("none")
