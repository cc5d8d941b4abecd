"""Caches from strangers: no list of theirs leads to another file, and no number of theirs to a hang or out of memory.

Every victim stands inside the test's own folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillab.cache.identity import MOST_SHARDS
from distillab.cache.journals import HeadEntry, Manifest, ShardEntry, read_listing
from distillab.cache.merge import merge
from distillab.cache.names import in_another_folder
from distillab.cache.reader import CacheReader
from distillab.cache.shards import BadBytes, parse_safetensors
from distillab.cache.sources import LocalSource
from distillab.cache.summary import summarise
from distillab.cache.verify import discard_damaged, verify
from distillab.cache.writer import CacheWriter
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError
from tests.cache.cache_samples import build, sample_identity, sample_rows, tree

ROWS = sample_rows(5)
IDENTITY = sample_identity(ROWS)
SECRET = b"what nobody but its owner may lose"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "thesis.txt"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


def entry_of(folder: Path, number: int = 1) -> ShardEntry:
    return read_listing(LocalSource(folder), IDENTITY).shards[number]


def journal_says(folder: Path, *entries: ShardEntry) -> None:
    text = "".join(entry.sealed().model_dump_json() + "\n" for entry in entries)
    (folder / "journals" / "0-of-1.jsonl").write_text(text)


def names(cache: Path, victim: Path) -> list[str]:
    inside = cache / "shards" / "notes.txt"
    inside.write_bytes(SECRET)
    return [
        str(victim),
        "shards/../../home/thesis.txt",
        "../home/thesis.txt",
        "identity.json",
        "shards/notes.txt",
        "shards/../shards/shard-00001.safetensors",
        "shards/shard-00000.safetensors",  # another number's
        "",
        ".",
        "shards",
    ]


# ---------------------------------------------------------------- 1.1: names


def test_a_journal_leads_to_no_file_but_its_own_shard(cache: Path, victim: Path) -> None:
    entry = entry_of(cache)
    for name in names(cache, victim):
        journal_says(cache, entry.model_copy(update={"file": name}))
        before = {path: data for path, data in tree(cache.parent).items() if not path.endswith(".jsonl")}
        calls: list[Callable[[], object]] = [
            lambda: CacheReader(cache),
            lambda: summarise(cache),
            lambda: merge(cache.parent / "merged", [cache]),
            lambda: CacheWriter(cache, IDENTITY),
        ]
        for call in calls:
            with pytest.raises(CacheCorrupt, match=r"line 1: it names the file"):
                call()
        assert not verify(cache).sound
        discard_damaged(cache)
        shutil.rmtree(cache.parent / "merged", ignore_errors=True)
        after = {path: data for path, data in tree(cache.parent).items() if not path.endswith(".jsonl")}
        assert after == before, name
        # and the line is gone
        assert (cache / "journals" / "0-of-1.jsonl").read_bytes() == b""
    assert victim.read_bytes() == SECRET


def test_damage_under_the_own_name_takes_out_the_own_shard_alone(cache: Path, victim: Path) -> None:
    shard = cache / "shards" / "shard-00001.safetensors"
    shard.unlink()
    shard.symlink_to(victim)
    assert list(verify(cache).damaged) == [1]
    discard_damaged(cache)
    assert victim.read_bytes() == SECRET
    assert not shard.is_symlink()


def test_a_shards_folder_that_is_a_link_is_not_touched(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.move(cache / "shards", other)
    (cache / "shards").symlink_to(other)
    damaged = other / "shard-00001.safetensors"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    unfinished = other / "shard-00007.safetensors"
    unfinished.write_bytes(SECRET)
    before = tree(tmp_path)
    calls: list[Callable[[], object]] = [lambda: discard_damaged(cache), lambda: CacheWriter(cache, IDENTITY)]
    for call in calls:
        with pytest.raises(CacheMismatch, match="folder shards is a link"):
            call()
    assert tree(tmp_path) == before


def test_journals_that_are_links_are_not_written_to(cache: Path, victim: Path, tmp_path: Path) -> None:
    journal = cache / "journals" / "0-of-1.jsonl"
    journal.unlink()
    journal.symlink_to(victim)
    with pytest.raises(CacheMismatch, match="journal of the cache is a link"):
        CacheWriter(cache, IDENTITY)
    shutil.rmtree(cache / "journals")
    (tmp_path / "elsewhere").mkdir()
    (cache / "journals").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheMismatch, match="folder journals is a link"):
        CacheWriter(cache, IDENTITY)
    assert victim.read_bytes() == SECRET
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_manifest_names_shards_of_other_caches_and_nothing_else(cache: Path, victim: Path) -> None:
    entry = entry_of(cache)
    (cache / "journals" / "0-of-1.jsonl").unlink()
    for name in [*names(cache, victim), "../c/shards/../shards/shard-00001.safetensors"]:
        listed = entry.model_copy(update={"file": name}).sealed()
        manifest = Manifest(fingerprint=IDENTITY.fingerprint, shards=(listed,))
        (cache / "manifest.json").write_text(manifest.model_dump_json())
        before = {path: data for path, data in tree(cache.parent).items() if not path.endswith("manifest.json")}
        with pytest.raises(CacheCorrupt, match="it names the file"):
            CacheReader(cache)
        discard_damaged(cache)
        assert {p: d for p, d in tree(cache.parent).items() if not p.endswith("manifest.json")} == before, name
    assert victim.read_bytes() == SECRET


def test_a_file_that_a_manifest_names_is_never_removed(cache: Path, tmp_path: Path) -> None:
    # inside the folder of the merged cache, where nothing of its name begins with ..
    part = Path(shutil.move(cache, tmp_path / "merged" / "part"))
    assert merge(tmp_path / "merged", [part]) == []
    assert CacheReader(tmp_path / "merged").complete
    shard = part / "shards" / "shard-00001.safetensors"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    head = part / "head.safetensors"
    head.write_bytes(b"x" + head.read_bytes()[1:])
    before = tree(part)
    assert list(discard_damaged(tmp_path / "merged").damaged) == [1]
    assert tree(part) == before
    assert CacheReader(tmp_path / "merged").missing_shards() == [1]


def test_a_head_is_the_caches_own_or_anothers_head(cache: Path, victim: Path) -> None:
    entry = HeadEntry.model_validate_json((cache / "head.json").read_bytes())
    wrong = entry.model_copy(update={"file": str(victim)}).sealed()
    (cache / "head.json").write_text(wrong.model_dump_json())
    with pytest.raises(CacheCorrupt, match="which is no head of this cache"):
        CacheReader(cache).head()
    manifest = Manifest(fingerprint=IDENTITY.fingerprint, shards=(), head=wrong)
    (cache / "manifest.json").write_text(manifest.model_dump_json())
    with pytest.raises(CacheCorrupt, match="which is no head of a cache"):
        CacheReader(cache)
    discard_damaged(cache)
    assert victim.read_bytes() == SECRET


def test_which_names_a_manifest_may_give() -> None:
    own = "shards/shard-00001.safetensors"
    good = [f"../a/{own}", f"../../a b/c/{own}", f"part/{own}", f"../{own}"]
    bad = [
        own,
        f"/a/{own}",
        f"../a/../b/{own}",
        f"a/../{own}",
        f"..//{own}",
        f"./{own}",
        f"../a\0/{own}",
        f"..\\a/{own}",
    ]
    assert [in_another_folder(name, own) for name in good] == [True] * len(good)
    assert [in_another_folder(name, own) for name in bad] == [False] * len(bad)


def test_what_is_no_file_is_not_waited_for(cache: Path) -> None:
    shard = cache / "shards" / "shard-00001.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(CacheCorrupt, match="shard-00001"):
        CacheReader(cache)
    assert list(verify(cache).damaged) == [1]
    (cache / "identity.json").unlink()
    os.mkfifo(cache / "identity.json")
    with pytest.raises(CacheCorrupt, match="not a regular file"):
        CacheReader(cache)


# ---------------------------------------------------------------- 1.3: numbers


def identity_says(folder: Path, **changes: Any) -> None:
    path = folder / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def quickly(folder: Path, rule: str) -> None:
    """Every command ends at once with an error, in little memory."""
    calls: list[Callable[[], object]] = [
        lambda: verify(folder),
        lambda: summarise(folder),
        lambda: CacheReader(folder),
        lambda: merge(folder.parent / "m", [folder]),
    ]
    for call in calls:
        since = time.process_time()
        with pytest.raises((CacheCorrupt, CacheMismatch), match=rule):
            call()
        assert time.process_time() - since < 2


HUGE: dict[str, dict[str, Any]] = {
    "rows": {"rows": 10**8},
    "more rows": {"rows": 10**18},
    "rows beyond 64 bits": {"rows": 10**30},
    "no rows a shard": {"rows_per_shard": 0},
    "rows a shard": {"rows_per_shard": 10**30},
    "width": {"width": 10**30},
    "k": {"layouts": [{"kind": "top_k", "k": 10**12, "id_bits": 9, "values": "float16", "temperature": 1.0}]},
    "draws": {"layouts": [{"kind": "sampled", "draws": 10**12, "id_bits": 9, "count_bits": 16, "temperature": 1.0}]},
    "array": {
        "layouts": [
            {
                "kind": "full",
                "positions": "all",
                "arrays": [{"name": "head_input", "width": 10**15, "store": "float32"}],
            }
        ]
    },
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_numbers_in_an_identity(cache: Path, name: str) -> None:
    identity_says(cache, **HUGE[name])
    quickly(cache, "identity cannot be read")


def test_a_nested_identity_and_a_nested_manifest(cache: Path) -> None:
    (cache / "manifest.json").write_text('{"format_version":' + "[" * 100_000)
    with pytest.raises(CacheCorrupt, match=r"manifest\.json"):
        CacheReader(cache)
    assert not verify(cache).sound
    (cache / "identity.json").write_text("[" * 100_000)
    quickly(cache, "identity cannot be read")


@pytest.mark.parametrize("field", ["source", "decoding", "engine"])
def test_text_that_is_none_in_an_identity(cache: Path, field: str) -> None:
    value = {"source": "\ud800", "decoding": {"a": "\ud800"}, "engine": {"\ud800": "1"}}[field]
    identity_says(cache, **{field: value})
    quickly(cache, r"identity\.json")


def test_more_shards_than_anybody_reads_are_not_begun(tmp_path: Path) -> None:
    many = IDENTITY.model_copy(update={"rows": 2 * MOST_SHARDS + 1})
    with pytest.raises(ConfigError, match=r"(?s)too many shards.*rows_per_shard higher"):
        CacheWriter(tmp_path / "c", many)


def test_huge_numbers_in_a_journal(cache: Path) -> None:
    """A shard of as many rows as one line says, of which there is nothing: no memory is taken for them."""
    identity_says(cache, rows=10**12, rows_per_shard=10**12)
    identity = IDENTITY.model_copy(update={"rows": 10**12, "rows_per_shard": 10**12})
    entry = entry_of_first(cache).model_copy(
        update={"rows": 10**12, "index_bytes": 10**14, "bytes": 10**15, "fingerprint": identity.fingerprint}
    )
    journal_says(cache, entry)
    quickly_read(cache)
    journal_says(cache, entry.model_copy(update={"index_bytes": 5}))
    with pytest.raises(CacheCorrupt, match="cannot have 1,000,000,000,000 rows"):
        CacheReader(cache)
    discard_damaged(cache)
    assert CacheReader(cache).missing_shards() == [0]


def entry_of_first(folder: Path) -> ShardEntry:
    return ShardEntry.model_validate_json((folder / "journals" / "0-of-1.jsonl").read_text().splitlines()[0])


def quickly_read(folder: Path) -> None:
    since = time.process_time()
    with pytest.raises(CacheCorrupt, match=r"it has .* bytes; 1,000,000,000,000,000 were written"):
        CacheReader(folder)
    assert list(verify(folder).damaged) == [0]
    assert time.process_time() - since < 2


HEADERS = {
    "longer than the file": (2**60).to_bytes(8, "little") + b"{}",
    "nested": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a shape beyond 64 bits": None,
    "a negative shape": None,
    "a shape that is no number": None,
    "metadata that is none": None,
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_strangers(name: str) -> None:
    content = HEADERS[name]
    if content is None:
        array: dict[str, Any] = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        header: dict[str, Any] = {"__metadata__": {}, "a": array}
        if name == "a shape beyond 64 bits":
            array |= {"shape": [2**63, 2**63], "data_offsets": [0, 2**126]}
        elif name == "a negative shape":
            array |= {"shape": [-2, -3], "data_offsets": [0, 6]}
        elif name == "a shape that is no number":
            array |= {"shape": [1.0], "data_offsets": [0, 1]}
        else:
            header["__metadata__"] = [1]
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + b"123456"
    try:
        _, places, _ = parse_safetensors(content)
    except BadBytes:
        return
    assert name == "a shape beyond 64 bits"
    with pytest.raises(BadBytes):
        places["a"].array(content)


def test_a_decompressed_record_is_no_larger_than_its_row(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    rows = sample_rows(2, ("text",))
    identity = sample_identity(rows, ("text",), compression="zstd")
    build(tmp_path / "c", rows, identity)
    reader = CacheReader(tmp_path / "c")
    bomb = zstandard.compress(bytes(2**20), 19)
    with pytest.raises(CacheCorrupt, match="at most 10"):  # a row of 4 tokens at 9 bits, and its mask
        reader._content([bomb], [[4, 2]], identity.tokens)


# ---------------------------------------------------------------- open files


def test_a_cache_of_more_shards_than_a_process_may_open_files(tmp_path: Path) -> None:
    rows = sample_rows(160, ("text",))
    build(tmp_path / "c", rows, sample_identity(rows, ("text",)))
    code = (
        "import resource, sys\nfrom distillab.cache.reader import CacheReader\n"
        "from distillab.cache.verify import verify\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "reader = CacheReader(sys.argv[1]); held = reader._shards.records([(n, 0) for n in range(80)], ['text'])\n"
        "assert len(held['text']) == 80 and verify(sys.argv[1]).complete\n"
        "print(len(reader.read(range(160), ['text'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "160\n", done.stderr
