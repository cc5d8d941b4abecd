"""Caches that were built in several folders are one: by a list, without copying."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distillab.cache.merge import merge
from distillab.cache.reader import CacheReader
from distillab.cache.verify import discard_damaged, verify
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError
from tests.cache.cache_samples import ALL, build, numbers, sample_identity, sample_rows, tree

ROWS = sample_rows(11)
IDENTITY = sample_identity(ROWS)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "far" / f"part{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        build(folder, ROWS, IDENTITY, worker=i, workers=3)
    return folders


def check(folder: Path) -> None:
    reader = CacheReader(folder)
    assert reader.complete
    found = reader.read(range(11), ALL)
    assert [row.key for row in found] == [row.key for row in ROWS]
    for kind in ("sampled", "full", "text"):
        assert [numbers(row.sections[kind]) for row in found] == [numbers(row.sections[kind]) for row in ROWS]
    assert reader.head().cap == 30.0
    assert verify(folder).complete


def test_a_merged_cache_is_the_whole_one(tmp_path: Path, parts: list[Path]) -> None:
    into = tmp_path / "merged"
    assert merge(into, parts) == []
    check(into)
    files = [name for name in tree(into) if name.endswith(".safetensors")]
    assert files == []
    # and anywhere else, together
    shutil.move(tmp_path / "far", tmp_path / "elsewhere" / "far")
    shutil.move(into, tmp_path / "elsewhere" / "merged")
    check(tmp_path / "elsewhere" / "merged")


def test_part_by_part_in_any_order(tmp_path: Path, parts: list[Path]) -> None:
    into = tmp_path / "merged"
    assert merge(into, parts[2:]) == [0, 1, 3, 4]
    assert CacheReader(into).missing_shards() == [0, 1, 3, 4]
    assert merge(into, parts[:1]) == [1, 4]
    assert merge(into, parts) == []
    check(into)
    # a merged cache is a part like any other
    assert merge(tmp_path / "a" / "again", [into]) == []
    check(tmp_path / "a" / "again")


def test_into_a_folder_with_shards_of_its_own(parts: list[Path]) -> None:
    assert merge(parts[0], parts[1:]) == []
    check(parts[0])
    assert CacheWriter(parts[0], IDENTITY).todo() == []
    assert merge(parts[1], parts) == []
    check(parts[1])


def test_a_build_goes_on_in_a_merged_folder(tmp_path: Path, parts: list[Path]) -> None:
    into = tmp_path / "merged"
    merge(into, parts[:2])
    build(into, ROWS, IDENTITY)
    assert sorted(name for name in tree(into) if name.startswith("shards/")) == [
        "shards/shard-00002.safetensors",
        "shards/shard-00005.safetensors",
    ]
    check(into)


def test_other_caches_are_refused(tmp_path: Path, parts: list[Path]) -> None:
    other = IDENTITY.model_copy(update={"seed": 3})
    build(tmp_path / "other", ROWS, other)
    with pytest.raises(CacheMismatch, match="seed: part0 0, other 3"):
        merge(tmp_path / "merged", [parts[0], tmp_path / "other"])
    with pytest.raises(CacheMismatch, match="seed: the cache 3, this run 0"):
        merge(tmp_path / "other", parts)
    with pytest.raises(CacheCorrupt, match="no cache here"):
        merge(tmp_path / "merged", [*parts, tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge(tmp_path / "merged", [])
    assert not (tmp_path / "merged").exists()


def test_a_shard_with_other_bytes_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    """As from two machines whose sums differ in the last digit."""
    changed = list(ROWS)
    changed[2] = type(ROWS[2])("another key", ROWS[2].input_ids, ROWS[2].answer_mask, ROWS[2].sections)
    build(tmp_path / "other", changed, IDENTITY)
    with pytest.raises(CacheMismatch, match=r"(?s)hold shard 1 with different bytes.*shard-00001.*different results"):
        merge(tmp_path / "merged", [parts[1], tmp_path / "other"])


def test_a_part_that_went_away(tmp_path: Path, parts: list[Path]) -> None:
    into = tmp_path / "merged"
    merge(into, parts)
    (parts[1] / "shards/shard-00004.safetensors").unlink()
    with pytest.raises(CacheCorrupt, match=r"(?s)missing.*part1/shards/shard-00004"):
        CacheReader(into)
    with pytest.raises(CacheCorrupt, match="part1"):
        merge(tmp_path / "again", parts)
    assert list(discard_damaged(into).damaged) == [4]
    assert CacheReader(into).missing_shards() == [4]
    before = tree(parts[1])
    build(into, ROWS, IDENTITY)
    check(into)
    assert tree(parts[1]) == before
