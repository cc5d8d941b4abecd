"""What was written is found again by what the teacher read, in any order, by any process."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distillab.cache.opened
import distillab.cache.sources
from distillab.cache.activations import States
from distillab.cache.finding import RowFinder
from distillab.cache.next_tokens import Sampled, TopK
from distillab.cache.opened import OpenShards
from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow, row_digest
from distillab.cache.shards import ShardIndex
from distillab.cache.text import Text
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, ShapeError
from tests.cache.cache_samples import ALL, build, numbers, sample_head, sample_identity, sample_rows
from tests.processes import FORKS, LIMIT_S

EXACT = ("sampled", "full", "attention_inputs", "text")


@pytest.fixture(scope="module")
def rows() -> list[CachedRow]:
    return sample_rows(11)


@pytest.fixture(scope="module")
def cache(rows: list[CachedRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "c"
    build(folder, rows, sample_identity(rows))
    return folder


def digest(row: CachedRow) -> bytes:
    return row_digest(row.input_ids, row.answer_mask)


def test_rows_come_back_in_any_order(cache: Path, rows: list[CachedRow]) -> None:
    order = [7, 0, 10, 3, 3, 8]
    for number, found in zip(order, CacheReader(cache).read(order, ALL), strict=True):
        wanted = rows[number]
        assert found.key == wanted.key
        np.testing.assert_array_equal(found.input_ids, wanted.input_ids)
        np.testing.assert_array_equal(found.answer_mask, wanted.answer_mask)
        for kind in EXACT:
            assert numbers(found.sections[kind]) == numbers(wanted.sections[kind])
        top, told = found.sections["top_k"], wanted.sections["top_k"]
        assert isinstance(top, TopK)
        assert isinstance(told, TopK)
        np.testing.assert_array_equal(top.ids, told.ids)
        np.testing.assert_allclose(top.logp, told.logp, atol=0.03)


def test_rows_are_found_by_what_the_teacher_read(cache: Path, rows: list[CachedRow]) -> None:
    reader = CacheReader(cache)
    order = [4, 9, 0]
    assert reader.find_many([digest(rows[i]) for i in order]) == order
    assert reader.find(digest(rows[10])) == 10
    other = rows[4].input_ids.copy()
    other[0] += 1
    assert reader.find(row_digest(other, rows[4].answer_mask)) is None
    # the same beginning of a digest is not enough
    assert reader.find(digest(rows[4])[:8] + bytes(8)) is None
    assert reader.find_many([]) == []


def test_of_equal_rows_the_first_is_found(tmp_path: Path, rows: list[CachedRow]) -> None:
    twice = [rows[2], rows[5], rows[2], rows[5], rows[5]]
    build(tmp_path / "c", twice, sample_identity(twice))
    assert CacheReader(tmp_path / "c").find_many([digest(rows[5]), digest(rows[2])]) == [1, 0]


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "text"])
def test_rows_read_together_are_the_rows_one_behind_the_other(cache: Path, kind: str) -> None:
    reader, order = CacheReader(cache), [9, 2, 2, 5, 0]
    flat = numbers(reader.read_flat(order, kind))
    single = [numbers(row.sections[kind]) for row in reader.read(order, [kind])]
    assert flat == {name: [entry for one in single for entry in one[name]] for name in flat}


def test_what_is_not_asked_for_is_not_read(cache: Path) -> None:
    reader = CacheReader(cache)
    (row,) = reader.read([1], ["text"])
    assert row.sections.keys() == {"text"}
    asked: list[Any] = []
    read = reader._source.read
    reader._source.read = lambda ranges: asked.extend(ranges) or read(ranges)  # type: ignore[method-assign]
    reader.read_flat([1, 2], "sampled")
    sizes = {end - start for _, start, end in asked}
    assert len(asked) == 2
    assert max(sizes) < 40


def test_figures_of_the_cache(cache: Path, rows: list[CachedRow]) -> None:
    reader = CacheReader(cache)
    assert (len(reader), reader.complete, reader.missing_shards()) == (11, True, [])
    assert reader.keys() == [row.key for row in rows]
    assert reader.kinds == ALL
    assert reader.present_rows().tolist() == list(range(11))
    lengths = [[len(row.input_ids), int(row.answer_mask.sum())] for row in rows]
    assert reader.lengths().tolist() == lengths
    assert reader.stored_bytes == sum(path.stat().st_size for path in (cache / "shards").iterdir())


def test_an_incomplete_cache_says_what_it_has(tmp_path: Path, rows: list[CachedRow]) -> None:
    identity = sample_identity(rows)
    build(tmp_path / "c", rows, identity, worker=1, workers=3)
    reader = CacheReader(tmp_path / "c")
    assert not reader.complete
    assert reader.missing_shards() == [0, 2, 3, 5]
    assert reader.present_rows().tolist() == [2, 3, 8, 9]
    assert reader.find_many([digest(row) for row in rows[:4]]) == [None, None, 2, 3]
    assert reader.read([9], [])[0].key == rows[9].key
    for ask in (lambda: reader.read([0], []), reader.keys):
        with pytest.raises(CacheCorrupt, match=r"(?s)not complete.*4 of 6 shards.*build. again"):
            ask()
    with pytest.raises(CacheMismatch, match=r"(?s)not complete.*4 of 6 shards are missing, the first is 0"):
        reader.require_complete()
    build(tmp_path / "c", rows, identity)
    CacheReader(tmp_path / "c").require_complete()


def test_an_empty_cache_can_be_opened(tmp_path: Path, rows: list[CachedRow]) -> None:
    CacheWriter(tmp_path / "c", sample_identity(rows))
    reader = CacheReader(tmp_path / "c")
    assert reader.missing_shards() == list(range(6))
    assert reader.find(digest(rows[0])) is None
    assert reader.lengths().shape == (0, 2)


def test_what_cannot_be_answered_is_refused(cache: Path, tmp_path: Path) -> None:
    reader = CacheReader(cache)
    with pytest.raises(CacheMismatch, match=r'does not store "topk".*(?s:.)*did you mean "top_k"'):
        reader.read([0], ["topk"])
    with pytest.raises(ShapeError, match="no such row"):
        reader.read([11], [])
    with pytest.raises(ShapeError, match="no such row"):
        reader.read_flat([-1], "top_k")
    with pytest.raises(CacheCorrupt, match=r"(?s)no cache here.*identity.json"):
        CacheReader(tmp_path / "nothing")
    with pytest.raises(ConfigError, match='protocol "nonsense"'):
        CacheReader("nonsense://bucket/cache")


def _read_in_child(reader: CacheReader, row: int, queue: Any) -> None:
    queue.put(reader.read([row], ["text"])[0].key)


@pytest.mark.parametrize("context", [multiprocessing.get_context("fork"), FORKS], ids=["forked", "pickled"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_reads_with_the_same_reader(cache: Path, rows: list[CachedRow], context: Any) -> None:
    reader = CacheReader(cache)
    reader.read([0], ["text"])
    queue = context.Queue()
    process = context.Process(target=_read_in_child, args=(reader, 6, queue))
    process.start()
    assert queue.get(timeout=LIMIT_S) == rows[6].key
    process.join(timeout=LIMIT_S)


def test_a_pickled_reader_has_no_open_files(cache: Path, rows: list[CachedRow]) -> None:
    reader = CacheReader(cache)
    reader.read([0, 5], ["text"])
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert again._source._open == {}
    assert [row.key for row in again.read([10, 1], [])] == [rows[10].key, rows[1].key]


def test_more_shards_than_files_may_be_open(
    cache: Path, rows: list[CachedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillab.cache.sources, "_OPEN_FILES", 2)
    monkeypatch.setattr(distillab.cache.opened, "_LOCAL_INDEXES", 2)
    reader = CacheReader(cache)
    for order in ([0, 3, 5, 7, 9, 10], [10, 1, 4]):
        assert [row.key for row in reader.read(order, ["text"])] == [rows[i].key for i in order]
        assert len(reader._source._open) <= 2  # type: ignore[attr-defined]
    assert reader.find_many([digest(row) for row in rows]) == list(range(11))


class _AlikeIndex:
    """The index of a shard whose digests all begin alike."""

    def __init__(self, index: ShardIndex) -> None:
        self.digests = index.digests.copy()
        self.digests[:, :8] = 7

    def __len__(self) -> int:
        return len(self.digests)


class _AlikeShards(OpenShards):
    def index(self, number: int) -> Any:
        return _AlikeIndex(super().index(number))


def test_digests_that_begin_alike_are_told_apart(cache: Path, rows: list[CachedRow]) -> None:
    reader = CacheReader(cache)
    finder = RowFinder(_AlikeShards(reader._source, reader.identity, reader._shards.entries))
    alike = bytes([7] * 8)
    assert finder.find([alike + digest(row)[8:] for row in rows]) == list(range(11))
    assert finder.find([alike + alike]) == [None]


@pytest.mark.parametrize("kinds", [(), ("text",), ("sampled", "full")])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_any_kinds_and_compression(tmp_path: Path, kinds: tuple[str, ...], compression: str) -> None:
    if compression == "zstd":
        pytest.importorskip("zstandard")
    rows = sample_rows(5, kinds)
    build(tmp_path / "c", rows, sample_identity(rows, kinds, compression=compression))
    reader = CacheReader(tmp_path / "c")
    for found, wanted in zip(reader.read(range(5), kinds), rows, strict=True):
        np.testing.assert_array_equal(found.input_ids, wanted.input_ids)
        assert {kind: numbers(found.sections[kind]) for kind in kinds} == {
            kind: numbers(wanted.sections[kind]) for kind in kinds
        }
    for kind in kinds:
        if kind != "text":
            assert isinstance(reader.read_flat([0, 4], kind), (Sampled, States))
        else:
            assert isinstance(reader.read([0], kinds)[0].sections[kind], Text)


def test_the_head_comes_back(cache: Path) -> None:
    found, wanted = CacheReader(cache).head(), sample_head()
    np.testing.assert_array_equal(found.weight, wanted.weight)
    assert found.bias is not None
    assert wanted.bias is not None
    np.testing.assert_array_equal(found.bias, wanted.bias)
    assert (found.multiplier, found.cap) == (0.125, 30.0)
