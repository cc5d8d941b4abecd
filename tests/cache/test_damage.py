"""Damaged, exchanged and foreign files: an error that names the file, and never a wrong number."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distillab.cache.identity import CacheIdentity
from distillab.cache.journals import ShardEntry, read_listing
from distillab.cache.merge import merge
from distillab.cache.reader import CacheReader
from distillab.cache.shards import ShardRow, checksum, make_shard
from distillab.cache.sources import LocalSource
from distillab.cache.verify import discard_damaged, verify
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheCorrupt, CacheError, CacheMismatch
from tests.cache import page_reader
from tests.cache.cache_samples import ALL, build, numbers, sample_head, sample_identity, sample_rows, tree

ROWS = sample_rows(5)
IDENTITY = sample_identity(ROWS)
SHARD = "shards/shard-00001.safetensors"


def everything(folder: Path) -> object:
    """All numbers of a cache."""
    reader = CacheReader(folder)
    assert reader.complete
    head = reader.head()
    assert head.bias is not None
    rows = reader.read(range(len(reader)), ALL)
    return (
        reader.identity,
        [(row.key, row.input_ids.tolist(), row.answer_mask.tolist()) for row in rows],
        [{kind: numbers(section) for kind, section in row.sections.items()} for row in rows],
        (head.weight.tolist(), head.bias.tolist(), head.multiplier, head.cap),
    )


def flips(content: bytes, every: int) -> Iterator[tuple[int, bytes]]:
    """The file with one bit flipped, at many places: each of the first and last bytes, and so on."""
    places = {*range(0, len(content), every), *range(8), len(content) - 1}
    for place in sorted(places):
        wrong = bytearray(content)
        wrong[place] ^= 1 << (place % 8)
        yield place, bytes(wrong)


def refused(folder: Path, error: type[CacheError], named: str) -> CacheError:
    """Reading everything raises this error; it names the file and says what to do."""
    with pytest.raises(error) as caught:
        everything(folder)
    assert named in (caught.value.where or "")
    assert caught.value.fix
    return caught.value


def repaired(folder: Path, sound: Path) -> None:
    """Discarding what is damaged and building again gives the sound cache."""
    discard_damaged(folder)
    build(folder, ROWS, IDENTITY)
    assert verify(folder).complete
    made, wanted = tree(folder), tree(sound)
    for name in ("journals/0-of-1.jsonl",):
        assert sorted(made.pop(name).splitlines()) == sorted(wanted.pop(name).splitlines())
    assert made == wanted


def resealed(folder: Path, number: int, content: bytes, **changes: object) -> None:
    """Put a shard's bytes into the cache as if they had been written there."""
    entry = read_listing(LocalSource(folder), IDENTITY).shards[number]
    (length,) = [8 + int.from_bytes(content[:8], "little")]
    header = json.loads(content[8:length])
    index = length + header["tokens.bytes"]["data_offsets"][0]
    facts: dict[str, object] = {
        "bytes": len(content),
        "index_bytes": index,
        "index_xxh3": f"{checksum(content[:index]):016x}",
        "sha256": page_reader.hashlib.sha256(content).hexdigest(),
    }
    path = folder / "journals" / "0-of-1.jsonl"
    new = entry.model_copy(update=facts | changes).sealed().model_dump_json()
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["shard"] != number]
    path.write_text("\n".join([*lines, new]) + "\n")
    (folder / entry.file).write_bytes(content)


# ---------------------------------------------------------------- shards


def test_a_flipped_bit_anywhere_in_a_shard(cache: Path, sound: Path) -> None:
    path = cache / SHARD
    content = path.read_bytes()
    tried = 0
    for place, wrong in flips(content, 13):
        path.write_bytes(wrong)
        refused(cache, CacheCorrupt, SHARD)
        if place % 5 == 0:
            report = verify(cache)
            assert list(report.damaged) == [1]
            assert not report.sound
        tried += 1
    assert tried > 150
    repaired(cache, sound)


def test_what_stands_beside_damage_is_read(cache: Path, sound: Path) -> None:
    path = cache / SHARD
    wrong = bytearray(path.read_bytes())
    wrong[-1] ^= 16  # the last answer
    path.write_bytes(wrong)
    reader = CacheReader(cache)
    others = [0, 1, 2, 4]
    texts = [numbers(row.sections["text"]) for row in reader.read(others, ["text"])]
    assert texts == [numbers(ROWS[i].sections["text"]) for i in others]
    with pytest.raises(CacheCorrupt, match=r"(?s)Shard 1 .*shard-00001.*row 3: its record of text.*verify --discard"):
        reader.read([3], ["text"])


@pytest.mark.parametrize("kept", [0, 5, 100, 1500, -20, -1])
def test_a_truncated_shard(cache: Path, sound: Path, kept: int) -> None:
    path = cache / SHARD
    path.write_bytes(path.read_bytes()[:kept])
    refused(cache, CacheCorrupt, SHARD)
    assert list(verify(cache).damaged) == [1]
    repaired(cache, sound)


def test_a_shard_with_something_behind_it(cache: Path, sound: Path) -> None:
    with (cache / SHARD).open("ab") as stream:
        stream.write(b"\0")
    refused(cache, CacheCorrupt, SHARD)
    repaired(cache, sound)


def test_a_missing_shard(cache: Path, sound: Path) -> None:
    (cache / SHARD).unlink()
    error = refused(cache, CacheCorrupt, SHARD)
    assert "--discard" in str(error)
    with pytest.raises(CacheCorrupt, match="missing"):
        CacheWriter(cache, IDENTITY)
    repaired(cache, sound)


def test_a_shard_that_is_cut_off_while_it_is_read(cache: Path) -> None:
    reader = CacheReader(cache)
    # in place, while the reader has the file open: a mapped file would end the process here
    os.truncate(cache / SHARD, (cache / SHARD).stat().st_size - 40)
    with pytest.raises(CacheCorrupt, match=rf"(?s)too short.*{SHARD}"):
        reader.read([2, 3], ALL)


def test_two_shards_exchanged(cache: Path, sound: Path) -> None:
    first, second = (cache / f"shards/shard-0000{n}.safetensors" for n in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    refused(cache, CacheCorrupt, "shard-00000")
    assert list(verify(cache).damaged) == [0, 1]
    repaired(cache, sound)


def test_exchanged_shards_of_equal_size_are_told(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1], ROWS[0], ROWS[1]]
    rows = [type(row)(f"{i}", row.input_ids, row.answer_mask, row.sections) for i, row in enumerate(rows)]
    build(tmp_path / "c", rows, sample_identity(rows))
    first, second = (tmp_path / "c" / f"shards/shard-0000{n}.safetensors" for n in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    assert len(a) == len(b)
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(CacheCorrupt, match=r"(?s)shard-00000.*that of shard 1: the files were exchanged"):
        CacheReader(tmp_path / "c")


def test_a_shard_of_another_cache(cache: Path, sound: Path, tmp_path: Path) -> None:
    other = IDENTITY.model_copy(update={"seed": 1})
    build(tmp_path / "other", ROWS, other)
    content = (tmp_path / "other" / SHARD).read_bytes()
    (cache / SHARD).write_bytes(content)
    refused(cache, CacheCorrupt, SHARD)
    # and with a journal line that vouches for it
    resealed(cache, 1, content)
    error = refused(cache, CacheMismatch, SHARD)
    assert other.fingerprint in str(error)
    assert IDENTITY.fingerprint in str(error)
    repaired(cache, sound)


def test_a_shard_under_another_number(cache: Path) -> None:
    content = (cache / "shards/shard-00000.safetensors").read_bytes()
    resealed(cache, 1, content)
    error = refused(cache, CacheMismatch, SHARD)
    assert "it is shard 0" in str(error)


def test_a_shard_of_a_newer_format(cache: Path) -> None:
    content = (cache / SHARD).read_bytes()
    newer = content.replace(b'"format_version":"1"', b'"format_version":"2"')
    assert newer != content
    resealed(cache, 1, newer)
    assert "version 2" in str(refused(cache, CacheMismatch, SHARD))


@pytest.mark.parametrize("what", ["digest", "scored", "record"])
def test_a_shard_that_was_never_right(cache: Path, what: str) -> None:
    """Its checksums are right, but what it says is not: only a faulty writer makes such a one."""
    _, arrays = page_reader.arrays((cache / SHARD).read_bytes())
    sections = ["tokens", *ALL]
    rows = []
    for row, cached in enumerate(ROWS[2:4]):
        records = {}
        for name in sections:
            ends = [0, *memoryview(arrays[f"{name}.ends"][1]).cast("q")]
            records[name] = arrays[f"{name}.bytes"][1][ends[row] : ends[row + 1]]
        digest = arrays["digests"][1][16 * row : 16 * row + 16]
        scored = int(cached.answer_mask.sum())
        rows.append(ShardRow(cached.key, digest, len(cached.input_ids), scored, records))
    content, _ = make_shard(rows, sections, number=1, fingerprint=IDENTITY.fingerprint)
    assert content == (cache / SHARD).read_bytes()
    first = rows[0]
    if what == "digest":
        rows[0] = ShardRow(first.key, bytes(16), first.tokens, first.scored, first.records)
    elif what == "scored":
        rows[0] = ShardRow(first.key, first.digest, first.tokens, first.scored + 1, first.records)
    else:
        longer = {**first.records, "sampled": first.records["sampled"] + b"\0"}
        rows[0] = ShardRow(first.key, first.digest, first.tokens, first.scored, longer)
    content, _ = make_shard(rows, sections, number=1, fingerprint=IDENTITY.fingerprint)
    resealed(cache, 1, content)
    report = verify(cache)
    assert list(report.damaged) == [1]
    assert isinstance(report.damaged[1], CacheCorrupt)
    assert SHARD in str(report.damaged[1])


# ---------------------------------------------------------------- lists


def journal_of(folder: Path) -> Path:
    return folder / "journals" / "0-of-1.jsonl"


def test_a_flipped_bit_anywhere_in_a_journal(cache: Path, sound: Path) -> None:
    content = journal_of(cache).read_bytes()
    for place, wrong in flips(content, 7):
        if place == len(content) - 1:
            continue  # the last line end: a torn line
        journal_of(cache).write_bytes(wrong)
        error = refused(cache, CacheCorrupt, "0-of-1.jsonl, line ")
        assert "--discard" in str(error)
        assert verify(cache).lists
    with pytest.raises(CacheCorrupt, match="line"):
        CacheWriter(cache, IDENTITY)
    repaired(cache, sound)


def test_a_torn_last_line(cache: Path, sound: Path) -> None:
    content = journal_of(cache).read_bytes()
    start = content[:-1].rfind(b"\n") + 1
    for cut in [start + 1, start + 40, len(content) - 2, len(content) - 1]:
        journal_of(cache).write_bytes(content[:cut])
        reader = CacheReader(cache)
        assert reader.missing_shards() == [2]
        assert verify(cache).sound
        writer = CacheWriter(cache, IDENTITY)
        assert writer.todo() == [2]
        assert not (cache / "shards/shard-00002.safetensors").exists()
        writer.write(2, ROWS[4:])
        assert tree(cache) == tree(sound)


def test_zeros_at_the_end_of_a_journal_are_a_torn_line(cache: Path, sound: Path) -> None:
    with journal_of(cache).open("ab") as stream:
        stream.write(bytes(100))  # the file grew, and the power went before its bytes came
    assert CacheReader(cache).complete
    CacheWriter(cache, IDENTITY)
    assert tree(cache) == tree(sound)


def other_cache(folder: Path) -> CacheIdentity:
    identity = IDENTITY.model_copy(update={"seed": 1})
    build(folder, ROWS, identity)
    return identity


def test_a_journal_of_another_cache(cache: Path, tmp_path: Path) -> None:
    other = other_cache(tmp_path / "other")
    shutil.copy(journal_of(tmp_path / "other"), cache / "journals" / "0-of-2.jsonl")
    error = refused(cache, CacheMismatch, "0-of-2.jsonl, line 1")
    assert other.fingerprint in str(error)
    with pytest.raises(CacheMismatch):
        CacheWriter(cache, IDENTITY)
    with pytest.raises(CacheMismatch):
        verify(cache)
    before = tree(cache)
    with pytest.raises(CacheMismatch):
        discard_damaged(cache)
    assert tree(cache) == before


def test_a_manifest_of_another_cache_or_a_newer_one(cache: Path, tmp_path: Path) -> None:
    other_cache(tmp_path / "other")
    merge(tmp_path / "merged", [tmp_path / "other"])
    manifest = tmp_path / "merged" / "manifest.json"
    shutil.copy(manifest, cache / "manifest.json")
    refused(cache, CacheMismatch, "manifest.json")
    newer = json.loads(manifest.read_text()) | {"format_version": 2, "unknown": 3}
    (cache / "manifest.json").write_text(json.dumps(newer))
    assert "version 2" in str(refused(cache, CacheMismatch, "manifest.json"))


def test_a_flipped_bit_anywhere_in_a_manifest(sound: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merge(merged, [sound])
    wanted, path = everything(merged), merged / "manifest.json"
    content = path.read_bytes()
    for _, wrong in flips(content, 11):
        path.write_bytes(wrong)
        if wrong.split() == content.split():
            assert everything(merged) == wanted
        else:
            with pytest.raises((CacheCorrupt, CacheMismatch), match=r"(?s)manifest\.json.*fix:"):
                everything(merged)


def test_one_shard_with_two_contents(cache: Path) -> None:
    entry = read_listing(LocalSource(cache), IDENTITY).shards[1]
    twice = entry.model_copy(update={"sha256": "0" * 64}).sealed()
    (cache / "journals" / "1-of-2.jsonl").write_text(twice.model_dump_json() + "\n")
    error = refused(cache, CacheMismatch, "1-of-2.jsonl, line 1")
    assert entry.sha256 in str(error)
    (cache / "journals" / "1-of-2.jsonl").write_text(entry.model_dump_json() + "\n")
    everything(cache)


# ---------------------------------------------------------------- identity and head


def test_a_flipped_bit_anywhere_in_the_identity(cache: Path) -> None:
    path = cache / "identity.json"
    content = path.read_bytes()
    for _, wrong in flips(content, 3):
        path.write_bytes(wrong)
        with pytest.raises((CacheCorrupt, CacheMismatch)) as caught:
            everything(cache)
        assert str(cache) in str(caught.value)
        assert "identity" in str(caught.value) or "newer version" in str(caught.value)
        assert caught.value.fix


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"format_version": 0}', b"\xff\xfe"])
def test_an_identity_that_is_none(cache: Path, content: bytes) -> None:
    (cache / "identity.json").write_bytes(content)
    refused(cache, CacheCorrupt, "identity.json")
    with pytest.raises(CacheCorrupt, match="identity"):
        CacheWriter(cache, IDENTITY)


def test_a_newer_format(cache: Path) -> None:
    fields = json.loads((cache / "identity.json").read_text()) | {"format_version": 2, "of_tomorrow": {}}
    (cache / "identity.json").write_text(json.dumps(fields))
    calls: list[Callable[[], object]] = [
        lambda: CacheReader(cache),
        lambda: CacheWriter(cache, IDENTITY),
        lambda: verify(cache),
    ]
    for call in calls:
        with pytest.raises(CacheMismatch, match=r"(?s)newer version.*identity.json.*version 2.*update distillab"):
            call()


def test_a_flipped_bit_anywhere_in_the_head(cache: Path, sound: Path) -> None:
    for name, every in (("head.safetensors", 61), ("head.json", 5)):
        content = (cache / name).read_bytes()
        for place, wrong in flips(content, every):
            (cache / name).write_bytes(wrong)
            if name == "head.json" and wrong.split() == content.split():
                continue
            refused(cache, CacheCorrupt, "head")
            if place % 7 == 0:
                assert isinstance(verify(cache).head, CacheError)
        repaired(cache, sound)


def test_a_head_that_is_missing_or_cut_off(cache: Path, sound: Path) -> None:
    for name in ("head.safetensors", "head.json"):
        (cache / name).unlink()
        refused(cache, CacheCorrupt, name)
        assert verify(cache).head
        repaired(cache, sound)
    path = cache / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(cache, CacheCorrupt, "head.safetensors")
    repaired(cache, sound)


def test_a_head_of_another_cache(cache: Path, tmp_path: Path) -> None:
    other_cache(tmp_path / "other")
    for name in ("head.safetensors", "head.json"):
        shutil.copy(tmp_path / "other" / name, cache / name)
    refused(cache, CacheMismatch, "head.json")
    with pytest.raises(CacheMismatch, match="head in this cache is not"):
        CacheWriter(cache, IDENTITY).write_head(sample_head())


# ---------------------------------------------------------------- all at once


def test_everything_that_is_damaged_is_found_and_made_again(cache: Path, sound: Path) -> None:
    path = cache / SHARD
    wrong = bytearray(path.read_bytes())
    wrong[-3] ^= 1
    path.write_bytes(wrong)
    (cache / "shards/shard-00002.safetensors").unlink()
    (cache / "head.safetensors").write_bytes(b"")
    content = journal_of(cache).read_bytes()
    journal_of(cache).write_bytes(b"what is this?\n" + content)
    seen: list[int] = []
    report = verify(cache, on_shard=seen.append)
    assert seen == [1, 2, 3]
    assert list(report.damaged) == [1, 2]
    assert report.head is not None
    assert len(report.lists) == 1
    assert (report.shards, report.rows, report.missing) == (3, 2, ())
    repaired(cache, sound)
    assert discard_damaged(cache).complete
    assert tree(cache).keys() == tree(sound).keys()


def test_rows_that_are_not_those_of_the_identity(tmp_path: Path) -> None:
    identity = IDENTITY.model_copy(update={"rows_sha256": "0" * 64})
    build(tmp_path / "c", ROWS, identity)
    report = verify(tmp_path / "c")
    assert not report.sound
    assert report.order is not None
    assert IDENTITY.rows_sha256 in report.order
    with pytest.raises(CacheMismatch, match="not those of its identity"):
        discard_damaged(tmp_path / "c")


def test_entries_seal_themselves() -> None:
    entry = ShardEntry(shard=1, file="f", rows=2, bytes=3, sha256="a", index_bytes=1, index_xxh3="b", fingerprint="c")
    assert not entry.sound
    assert entry.sealed().sound
    assert not entry.sealed().model_copy(update={"rows": 3}).sound
