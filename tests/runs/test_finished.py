"""A finished run or baseline is read again only where it is what its record says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.errors import ConfigError, DataError
from distillab.records import RunRecord, StudyResults, read_record
from distillab.runs.folder import claim, sha256_of
from distillab.study.study import Study


@pytest.fixture(scope="module")
def finished(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms and two seeds."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    _run(tiny_world, folder)
    return folder


def _run(tiny_world: dict[str, Any], folder: Path) -> StudyResults:
    training = {**tiny_world["training"], "steps": 2}
    values = {**tiny_world, "arms": ["sft", "logits"], "training": training}
    return Study(StudyRecipe(**values, output=str(folder)), reproduce="x").run()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "study"))


def _swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _swap_points(folder: Path) -> None:
    for ending in ("json", "jsonl"):
        points = folder / "baselines"
        _swap(points / f"undistilled.{ending}", points / f"teacher-teacher.{ending}")


def _swap_lines(folder: Path) -> None:
    _swap(folder / "baselines" / "undistilled.jsonl", folder / "baselines" / "teacher-teacher.jsonl")


def _nan(path: Path) -> None:
    values = json.loads(path.read_text())
    values["evaluation"]["metrics"][0]["value"] = None  # what an earlier version wrote for NaN
    path.write_text(json.dumps(values))


SFT, LOGITS = Path("runs/sft"), Path("runs/logits")
CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another seed's record": (
        lambda f: _swap(f / SFT / "seed0/run.json", f / SFT / "seed1/run.json"),
        r"record is that of another run.*seed: expected 0, there 1",
    ),
    "another arm's whole folder": (
        lambda f: (shutil.rmtree(f / SFT / "seed1"), shutil.copytree(f / LOGITS / "seed1", f / SFT / "seed1"))[0],
        r"run or study of another recipe",
    ),
    "another arm's record": (
        lambda f: _swap(f / SFT / "seed1/run.json", f / LOGITS / "seed1/run.json"),
        r"record is that of another run.*arm: expected sft, there logits",
    ),
    "another arm's figures": (
        lambda f: _swap(f / SFT / "seed1/held_out.jsonl", f / LOGITS / "seed1/held_out.jsonl"),
        r"have changed since.*held_out\.jsonl has changed since.*delete its run\.json",
    ),
    "a bit of the student": (
        lambda f: _flip(f / LOGITS / "seed0/student/model.safetensors"),
        r"have changed since.*student/model\.safetensors has changed since",
    ),
    "no student": (lambda f: shutil.rmtree(f / SFT / "seed0/student"), r"student/model\.safetensors is missing"),
    "a figure that is no number": (
        lambda f: _nan(f / SFT / "seed0/run.json"),
        r"no RunRecord.*delete its run\.json, and the same command repeats the run",
    ),
    "swapped baselines": (_swap_points, r"record is that of another model.*expected (undistilled|teacher-teacher)"),
    "swapped figures of baselines": (_swap_lines, r"undistilled\.jsonl has changed since"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_since_is_refused_and_named(
    tiny_world: dict[str, Any], copy: Path, finished: Path, change: str
) -> None:
    before = (copy / "results.json").read_bytes()
    damage, named = CHANGES[change]
    damage(copy)
    with pytest.raises(Exception, match=rf"(?s){named}"):
        _run(tiny_world, copy)
    assert (copy / "results.json").read_bytes() == before


def test_the_way_out_works(tiny_world: dict[str, Any], copy: Path) -> None:
    before = read_record(StudyResults, copy / "results.json")
    _flip(copy / SFT / "seed0/student/model.safetensors")
    _swap_lines(copy)
    (copy / SFT / "seed0" / "run.json").unlink()
    for path in (copy / "baselines").glob("*.json"):
        path.unlink()
    after = _run(tiny_world, copy)
    for one, other in zip(before.arms, after.arms, strict=True):
        assert one.evaluations == other.evaluations
    assert before.baselines == after.baselines


def test_a_record_of_an_earlier_version_is_refused(tiny_world: dict[str, Any], copy: Path) -> None:
    path = copy / SFT / "seed0" / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"schema_version": 1}))
    with pytest.raises(DataError, match=r"(?s)earlier distillab.*schema version of the file: 1.*delete its run\.json"):
        _run(tiny_world, copy)


def test_a_record_names_every_file_that_the_run_leaves(finished: Path) -> None:
    record = read_record(RunRecord, finished / LOGITS / "seed1" / "run.json")
    there = {path.relative_to(finished / LOGITS / "seed1").as_posix() for path in _files(finished / LOGITS / "seed1")}
    assert set(record.files) == there - {"run.json", "recipe.json", "metrics.jsonl"}
    assert {"held_out.jsonl", "student/model.safetensors", "student/tokenizer.json"} <= set(record.files)
    assert all(sha256_of(finished / LOGITS / "seed1" / name) == digest for name, digest in record.files.items())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_other_steps_alone_are_answered_with_what_can_be_done(tmp_path: Path) -> None:
    values = {"student": {"path": "s"}, "data": {"train": {"path": "d"}}, "output": str(tmp_path / "run")}
    claim(tmp_path / "run", RunRecipe(**values, training={"steps": 4}), fingerprints={})
    with pytest.raises(ConfigError) as longer:
        claim(tmp_path / "run", RunRecipe(**values, training={"steps": 9}), fingerprints={})
    assert longer.value.facts == ("training.steps: there 4, now 9",)
    assert f"student.path={tmp_path / 'run'}/student output=" in str(longer.value.fix)
    with pytest.raises(ConfigError) as other:
        claim(tmp_path / "run", RunRecipe(**values, training={"steps": 9}, seed=1), fingerprints={})
    assert other.value.fix == "set another output, or delete this folder"
