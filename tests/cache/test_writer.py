"""Shards are made whole or not at all, by any number of workers, and only once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distillab.cache.head import StoredHead, write_head
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow
from distillab.cache.verify import verify
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheMismatch, ConfigError, ShapeError
from tests.cache.cache_samples import build, sample_head, sample_identity, sample_rows, tree

ROWS = sample_rows(9)
IDENTITY = sample_identity(ROWS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "c"
    build(folder, ROWS, IDENTITY)
    return {name: data for name, data in tree(folder).items() if not name.startswith("journals/")}


def content(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if not name.startswith("journals/")}


def make(writer: CacheWriter, number: int) -> None:
    writer.write(number, ROWS[2 * number : 2 * number + 2])


def test_any_order_gives_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    writer = CacheWriter(tmp_path / "c", IDENTITY)
    writer.write_head(sample_head())
    for number in (3, 0, 4, 2, 1):
        make(writer, number)
    assert writer.todo() == []
    assert content(tmp_path / "c") == whole


def test_a_resumed_build_makes_what_is_missing(tmp_path: Path, whole: dict[str, bytes]) -> None:
    make(CacheWriter(tmp_path / "c", IDENTITY), 2)
    again = CacheWriter(tmp_path / "c", IDENTITY)
    assert again.todo() == [0, 1, 3, 4]
    build(tmp_path / "c", ROWS, IDENTITY)
    assert content(tmp_path / "c") == whole
    assert len((tmp_path / "c" / "journals" / "0-of-1.jsonl").read_text().splitlines()) == 5


def test_workers_share_the_shards_and_another_count_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = tmp_path / "c"
    first, second = (CacheWriter(folder, IDENTITY, worker=i, workers=2) for i in range(2))
    assert (first.todo(), second.todo()) == ([0, 2, 4], [1, 3])
    make(second, 3)
    make(first, 0)
    third = CacheWriter(folder, IDENTITY, worker=1, workers=3)
    assert third.todo() == [1, 4]
    for worker in range(3):
        build(folder, ROWS, IDENTITY, worker=worker, workers=3)
    assert content(folder) == whole
    assert verify(folder).complete


def test_leftovers_of_dead_writers_go_and_those_of_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    make(CacheWriter(folder, IDENTITY), 1)
    shards = folder / "shards"
    finished = shards / "shard-00001.safetensors"
    unfinished = shards / "shard-00003.safetensors"
    unfinished.write_bytes(b"linked, but its journal line was not written")
    temporary = [shards / f".shard-0000{n}.0-of-1.123-ab.tmp" for n in (1, 3)]
    others = [shards / ".shard-00002.1-of-2.9-cd.tmp", shards / "shard-00004.safetensors", shards / "notes.txt"]
    for path in (*temporary, *others):
        path.write_bytes(b"half")
    CacheWriter(folder, IDENTITY, worker=1, workers=2)
    assert finished.exists()
    assert not any(path.exists() for path in (unfinished, *temporary))
    assert all(path.exists() for path in others)


def test_a_folder_belongs_to_one_cache(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    CacheWriter(folder, IDENTITY)
    other = IDENTITY.model_copy(
        update={"seed": 7, "teacher": IDENTITY.teacher.model_copy(update={"weights_sha256": "99" * 32})}
    )
    with pytest.raises(CacheMismatch) as caught:
        CacheWriter(folder, other)
    assert caught.value.facts == (
        f"teacher.weights_sha256: the cache {'ab' * 32!r}, this run {'99' * 32!r}",
        "seed: the cache 0, this run 7",
    )
    assert str(folder) in str(caught.value)
    fewer = sample_identity(sample_rows(9, ("text",)), ("text",))
    with pytest.raises(CacheMismatch, match=r"layouts\.0\.k: the cache 3, this run 'nothing'"):
        CacheWriter(folder, fewer)


@pytest.mark.parametrize(("worker", "workers"), [(2, 2), (-1, 2), (0, 0)])
def test_there_is_no_such_worker(tmp_path: Path, worker: int, workers: int) -> None:
    with pytest.raises(ConfigError, match="numbered from 0"):
        CacheWriter(tmp_path / "c", IDENTITY, worker=worker, workers=workers)
    assert not (tmp_path / "c").exists()


def test_only_the_rows_of_the_shard_are_taken(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", IDENTITY, worker=0, workers=2)
    for number, rows in ((1, ROWS[2:4]), (0, ROWS[:1]), (0, ROWS[:3]), (4, ROWS[:2])):
        with pytest.raises(ShapeError, match="not the rows of a shard"):
            writer.write(number, rows)
    make(writer, 0)
    with pytest.raises(ShapeError, match="not the rows of a shard"):
        make(writer, 0)
    bare = CachedRow(ROWS[4].key, ROWS[4].input_ids, ROWS[4].answer_mask, {})
    with pytest.raises(ShapeError, match="other sections"):
        writer.write(2, [bare, ROWS[5]])
    assert writer.todo() == [2, 4]
    assert not list((tmp_path / "c").rglob("*.tmp"))


def test_an_id_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", IDENTITY)
    wrong = CachedRow(ROWS[0].key, np.full_like(ROWS[0].input_ids, 512), ROWS[0].answer_mask, ROWS[0].sections)
    with pytest.raises(CacheMismatch, match="do not fit"):
        writer.write(0, [wrong, ROWS[1]])
    assert list((tmp_path / "c" / "shards").iterdir()) == []
    assert 0 in writer.todo()


def test_several_writers_may_store_the_same_head_but_no_other(tmp_path: Path) -> None:
    first, second = (CacheWriter(tmp_path / "c", IDENTITY, worker=i, workers=2) for i in range(2))
    first.write_head(sample_head())
    second.write_head(sample_head())
    head = sample_head()
    with pytest.raises(CacheMismatch, match="head in this cache is not"):
        second.write_head(StoredHead(head.weight + np.uint16(1), head.bias, 0.125, 30.0))
    assert CacheReader(tmp_path / "c").head().multiplier == 0.125


def test_a_head_without_bias_and_cap(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", IDENTITY)
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    writer.write_head(StoredHead(weight))
    found = CacheReader(tmp_path / "c").head()
    np.testing.assert_array_equal(found.weight, weight)
    assert (found.bias, found.multiplier, found.cap) == (None, 1.0, None)


@pytest.mark.parametrize(
    "head",
    [
        StoredHead(np.zeros((3, 2))),
        StoredHead(np.zeros(3, np.float32)),
        StoredHead(np.zeros((3, 2), np.float32), np.zeros(2, np.float32)),
        StoredHead(np.zeros((3, 2), np.float32), np.zeros(3, np.float16)),
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, head: StoredHead) -> None:
    with pytest.raises(ShapeError, match="A head is"):
        write_head(tmp_path, head, "f" * 64)
