"""`distillab cache` on tiny real models, through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from distillab.cache.activations import States
from distillab.cache.next_tokens import Sampled, TopK
from distillab.cache.reader import CacheReader
from distillab.config import StudyRecipe
from distillab.records import RunRecord, read_record
from distillab.study.study import Study
from tests.cli.conftest import Run, call, write_recipe

Recipe = Callable[..., str]
KINDS = [
    {"kind": "top_k", "k": 6},
    {"kind": "sampled", "draws": 15},
    {"kind": "hidden_states", "layers": [0, 1], "store": "bfloat16"},
    {"kind": "attention_inputs", "blocks": [1], "store": "int8"},
]
SETTINGS = {"kinds": KINDS, "rows_per_shard": 16, "batch_size": 8}


def shard_bytes(location: Path) -> dict[str, bytes]:
    return {str(file.relative_to(location)): file.read_bytes() for file in sorted(location.rglob("shards/*"))}


class Built(NamedTuple):
    """A recipe, the cache that was built of it, and what the build printed."""

    recipe: str
    location: Path
    out: str


@pytest.fixture(scope="module")
def built(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built once; a test that changes it takes `copied`."""
    folder = tmp_path_factory.mktemp("built")
    path = write_recipe(folder, tiny_world, method="logits", cache=SETTINGS)
    code, out, err = call("cache", "build", path)
    assert code == 0, err
    return Built(path, folder / "run" / "cache", out)


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Path:
    """The cache in a folder of the test's own."""
    return Path(shutil.copytree(built.location, tmp_path / "copy"))


# ---------------------------------------------------------------- build, info


def test_a_build_says_what_it_made_and_a_second_one_makes_nothing(run: Run, built: Built) -> None:
    recipe, location, out = built
    reader = CacheReader(location)
    tokens, scored = reader.lengths().sum(axis=0).tolist()
    for text in (
        f"{location}  (complete)",
        f"{len(reader)} rows of {len(reader)} in 4 shards",
        f"{tokens:,} tokens, {scored} of them scored",
        f"in all       {reader.stored_bytes:,} bytes, {reader.stored_bytes / scored:,.1f} bytes a scored token",
        reader.identity.fingerprint,
        f"{location}/held_out  (complete)",
    ):
        assert text in out
    assert out.splitlines()[-1] == f"teacher: {{cache: {location}}}"
    before = {file: file.stat().st_mtime_ns for file in location.rglob("*") if file.is_file()}
    code, again, _ = run("cache", "build", recipe)
    assert (code, again) == (0, out)
    assert {file: file.stat().st_mtime_ns for file in location.rglob("*") if file.is_file()} == before
    assert run("cache", "info", str(location))[1] in out


def test_a_run_moves_from_the_teacher_to_its_cache_by_one_line(
    run: Run, recipe: Recipe, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    location = tmp_path / "run" / "cache"
    both = recipe(method="logits", teacher=tiny_world["teacher"] | {"cache": str(location)})
    code, out, err = run("cache", "build", both)  # it names the cache that is built
    assert code == 0, err
    assert f"teacher: {{cache: {location}}}" in out
    path = recipe(method="logits")
    online, cached = tmp_path / "online", tmp_path / "run"  # which holds the cache already
    assert run("train", path, f"output={online}")[0] == 0
    code, _, err = run("train", recipe(method="logits", teacher={"cache": str(location)}))
    assert code == 0, err
    live, stored = (read_record(RunRecord, folder / "run.json") for folder in (online, cached))
    assert live.cost.teacher_tokens > 0 and stored.cost.teacher_tokens == 0
    assert stored.evaluation.value("kl_from_teacher") == pytest.approx(
        live.evaluation.value("kl_from_teacher"), abs=1e-5
    )


def test_another_setting_in_the_same_folder_is_refused_with_both_sides(run: Run, built: Built) -> None:
    recipe, location, _ = built
    before = shard_bytes(location)
    code, _, err = run("cache", "build", recipe, "cache.seed=1")
    assert code == 1 and "CacheMismatch" in err and "Traceback" not in err
    assert "seed: the cache 0, this run 1" in err
    assert shard_bytes(location) == before


def test_two_workers_and_a_merge_make_what_one_makes(
    run: Run, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole, _ = built
    first, second, merged = (tmp_path / name for name in ("first", "second", "merged"))
    code, out, err = run("cache", "build", recipe, f"cache.folder={first}", "--worker", "0/2")
    assert code == 0, err
    assert "not complete: other workers' shards are missing" in out and "teacher:" not in out.splitlines()[-1]
    assert run("cache", "verify", str(first))[0] == 1
    monkeypatch.setenv("RANK", "1")  # as torchrun says it
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run("cache", "build", recipe, f"cache.folder={second}")
    assert (code, out) == (0, "")  # the first of torchrun's processes speaks
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    code, out, err = run("cache", "merge", str(merged), str(first), str(second))
    assert code == 0, err
    assert f"{merged}  (complete)" in out and f"{merged}/held_out  (complete)" in out
    assert not list(merged.rglob("*.safetensors"))  # nothing is copied
    assert shard_bytes(first) | shard_bytes(second) == shard_bytes(whole)
    assert (merged / "tokenizer" / "config.json").is_file()
    assert run("cache", "verify", str(merged))[0] == 0
    ours, theirs = (CacheReader(place).read(range(60), ["top_k"]) for place in (merged, whole))
    for a, b in zip(ours, theirs, strict=True):
        one, other = a.sections["top_k"], b.sections["top_k"]
        assert isinstance(one, TopK) and isinstance(other, TopK)
        assert a.key == b.key and np.array_equal(one.logp, other.logp)


def test_different_caches_are_not_merged(run: Run, recipe: Recipe, built: Built, tmp_path: Path) -> None:
    path, location, _ = built
    other = tmp_path / "other"
    assert run("cache", "build", path, f"cache.folder={other}", "cache.seed=3")[0] == 0
    code, _, err = run("cache", "merge", str(tmp_path / "both"), str(location), str(other))
    assert code == 1 and "CacheMismatch" in err and "seed" in err and "Traceback" not in err


# ---------------------------------------------------------------- verify


def test_a_flipped_bit_is_found_taken_out_and_made_again(run: Run, built: Built, copied: Path) -> None:
    recipe, location = built.recipe, copied
    sound = shard_bytes(location)
    code, out, _ = run("cache", "verify", str(location))
    assert code == 0 and out.count(": sound;") == 2
    shard = location / "shards" / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 16
    shard.write_bytes(content)
    code, out, err = run("cache", "verify", str(location))
    assert code == 1 and "DAMAGED" in out and str(shard) in out and "--discard" in out
    assert "Traceback" not in out + err
    code, out, _ = run("cache", "verify", str(location), "--discard")
    assert code == 1 and "removed; the same" in out and "1 of 4 shards are missing" in out
    assert not shard.exists()
    # of a builder on another machine, killed long ago
    left = location / ".tokenizer.0123abcd-7-00ff.tmp"
    left.mkdir()
    os.utime(left, (0, 0))
    assert run("cache", "build", recipe, f"cache.folder={location}")[0] == 0
    assert not left.exists()
    assert shard_bytes(location) == sound
    assert run("cache", "verify", str(location))[0] == 0


# ---------------------------------------------------------------- export


def test_the_exported_table_holds_the_numbers_of_the_cache(run: Run, copied: Path) -> None:
    location = copied
    code, out, err = run("cache", "export", str(location), "--to", "parquet")
    assert code == 0, err
    file = pq.ParquetFile(location.with_name("copy.parquet"))
    assert str(location.with_name("copy.parquet")) in out
    reader = CacheReader(location)
    assert file.num_row_groups == 4
    assert file.schema_arrow.metadata[b"distillab.fingerprint"].decode() == reader.identity.fingerprint
    assert json.loads(file.schema_arrow.metadata[b"distillab.identity"]) == json.loads(
        reader.identity.model_dump_json()
    )
    rows = reader.read(range(len(reader)), ["top_k", "sampled", "hidden_states", "attention_inputs"])
    table = file.read().to_pylist()
    assert len(table) == len(rows) == 60
    for got, row in zip(table, rows, strict=True):
        top, drawn = row.sections["top_k"], row.sections["sampled"]
        assert isinstance(top, TopK) and isinstance(drawn, Sampled)
        assert got["key"] == row.key
        assert got["input_ids"] == row.input_ids.tolist() and got["answer_mask"] == row.answer_mask.tolist()
        assert got["top_k_ids"] == top.ids.tolist() and got["top_k_logp"] == top.logp.tolist()
        assert got["top_k_tail_logmass"] == top.tail_logmass.tolist()
        assert got["actual_logp"] == top.actual_logp.tolist()
        assert got["sampled_own_nats"] == drawn.entropy_estimate.tolist()
        ends = np.cumsum(drawn.distinct)
        for n, (ids, counts) in enumerate(zip(got["sampled_ids"], got["sampled_counts"], strict=True)):
            here = slice(ends[n] - drawn.distinct[n], ends[n])
            assert ids == drawn.ids[here].tolist() and counts == drawn.counts[here].tolist()
            assert sum(counts) == 15
        for kind in ("hidden_states", "attention_inputs"):
            states = row.sections[kind]
            assert isinstance(states, States) and states.arrays
            for name, array in states.arrays.items():
                assert got[name] == as_float(array).tolist()


def as_float(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bfloat16 bits as numbers, one by one: sign, exponent and seven bits of the fraction."""
    if array.dtype != np.uint16:
        return array

    def number(bits: int) -> float:
        sign, exponent, fraction = -1.0 if bits >> 15 else 1.0, bits >> 7 & 255, bits & 127
        return sign * (fraction / 128 * 2.0**-126 if exponent == 0 else (1 + fraction / 128) * 2.0 ** (exponent - 127))

    return np.vectorize(number)(array.astype(int))


def test_an_export_writes_over_nothing_and_leaves_nothing_half_done(run: Run, copied: Path) -> None:
    location = copied
    output = location.parent / "there.parquet"
    output.write_text("mine")
    code, _, err = run("cache", "export", str(location), "--to", "parquet", "--output", str(output))
    assert code == 2 and "is there already" in err and output.read_text() == "mine"
    shard = location / "shards" / "shard-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    before = sorted(location.parent.iterdir())
    code, _, err = run("cache", "export", str(location), "--to", "parquet")
    assert code == 1 and "CacheCorrupt" in err and str(shard) in err and "Traceback" not in err
    assert sorted(location.parent.iterdir()) == before


# ---------------------------------------------------------------- estimate


def test_an_estimate_is_what_is_built(run: Run, built: Built, recipe: Recipe, tmp_path: Path) -> None:
    code, out, err = run("cache", "estimate", recipe(method="logits", cache=SETTINGS))
    assert code == 0, err
    assert not (tmp_path / "run").exists()  # nothing is written
    foretold = estimated(out)
    for part in (".", "held_out"):
        here = built.location / part
        files = [*here.glob("shards/*"), *here.glob("head.safetensors")]
        said = foretold[os.path.normpath(tmp_path / "run" / "cache" / part)]
        assert said == pytest.approx(sum(file.stat().st_size for file in files), rel=0.02)
    assert re.search(r"rows 60 +tokens 1,613", out) and "free on the disk" in out
    assert re.search(r"sampled .*measured on some rows", out) and not re.search(r"top_k .*measured", out)


def test_an_estimate_of_compressed_records_is_measured(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    location = tmp_path / "run" / "cache"
    path = recipe(method="logits", cache=SETTINGS | {"compression": "zstd"})
    code, out, err = run("cache", "estimate", path)
    assert code == 0, err
    assert run("cache", "build", path)[0] == 0
    stored = sum(file.stat().st_size for file in location.glob("shards/*"))
    assert estimated(out)[str(location)] == pytest.approx(stored, rel=0.02)
    assert re.search(r"top_k .*measured", out)


def estimated(out: str) -> dict[str, int]:
    """Part -> bytes in all."""
    places = re.findall(r"^(/\S+)  \(", out, re.MULTILINE)
    sizes = re.findall(r"^  in all +([\d,]+) bytes", out, re.MULTILINE)
    return {place: int(size.replace(",", "")) for place, size in zip(places, sizes, strict=True)}


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(
    run: Run, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 20_000, 20_000))
    path = recipe(method="logits", cache=SETTINGS)
    code, out, err = run("cache", "build", path)
    assert code == 1 and "StorageError" in err and "no room for the cache" in err and "int8" in err, err
    assert not (tmp_path / "run").exists()
    code, out, _ = run("cache", "estimate", path)
    assert code == 1 and "the disk has no room" in out


# ---------------------------------------------------------------- answers, studies


def test_answers_and_signals_on_them_stand_in_parts_of_their_own(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    location = tmp_path / "run" / "cache"
    term = {"kind": "top_k_divergence", "k": 4}
    made = {"method": "seqkd", "terms": [{"kind": "cross_entropy"}, term], "cache": {"rows_per_shard": 16}}
    path = recipe(**made)
    code, out, err = run("cache", "build", path)
    assert code == 0, err
    for part in ("held_out", "text", "answers"):
        assert f"{location}/{part}  (complete)" in out
    assert not (location / "identity.json").exists()
    code, out, err = run("cache", "verify", str(location))
    assert code == 0, out
    code, _, err = run("cache", "export", str(location), "--to", "parquet")
    assert code == 2 and f"{location}/text" in err
    assert run("cache", "export", f"{location}/text", "--to", "parquet")[0] == 0
    table = pq.read_table(location / "text.parquet").to_pylist()
    assert len(table) == 60 and {row["finish"] for row in table} <= {"stop", "length"}
    code, _, err = run("train", recipe(**made, teacher={"cache": str(location)}, output=str(tmp_path / "cached")))
    assert code == 0, err


def test_a_study_finds_what_was_built_for_it(run: Run, tiny_world: dict[str, Any], tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    values = tiny_world | {"arms": ["sft", "logits", "hidden_states"], "output": str(tmp_path / "study")}
    path = tmp_path / "study.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    code, out, err = run("cache", "estimate", str(path))
    assert code == 0, err
    code, out, err = run("cache", "build", str(path))
    assert code == 0, err
    assert "distillab compare reads it" in out
    caches = Study(StudyRecipe(**values), reproduce="").caches
    for part in ("train", "held_out"):
        assert caches.missing(part, caches.recipe.arms) == []  # type: ignore[arg-type]
