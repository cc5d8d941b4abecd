"""Whole runs whose folder is lost, and that resume from copies of their checkpoints: an S3 server, a mounted folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillab.files import read_json_lines
from tests.cache.cache_samples import tree
from tests.object_store import SECRET, Held, object_store
from tests.processes import ended, start_distillab, wait_for
from tests.runs.test_processes import on_two, weights, write_recipe

TRAINING = {"steps": 12, "evaluate_every": 6, "checkpoint_every": 4}


def _train(recipe: Path) -> str:
    code, err = ended(start_distillab("train", str(recipe)))
    assert code == 0, err
    return err


@pytest.fixture
def held() -> Held:
    return Held("checkpoint-8/metrics.jsonl")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, held: Held) -> Iterator[Any]:
    with object_store(monkeypatch, held) as store:
        yield store


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_uploads_resumes_on_another_machine(
    tiny_world: dict[str, Any], tmp_path: Path, store: Any, held: Held
) -> None:
    whole = write_recipe(tiny_world, tmp_path, "whole", training=TRAINING)
    _train(whole)
    training = TRAINING | {"checkpoint_copy": "s3://bucket/copies"}
    killed = write_recipe(tiny_world, tmp_path, "killed", training=training)
    process = start_distillab("train", str(killed))
    wait_for(process, held.arrived.is_set)
    process.send_signal(signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL
    held.goes_on.set()
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-8" / "seal.json").is_file()
    shutil.rmtree(tmp_path / "killed")

    moved = write_recipe(tiny_world, tmp_path, "moved", training=training)
    said = _train(moved)
    assert "resumes from a copy: s3://bucket/copies/" in said and "/checkpoint-4\n" in said, said
    steps = [line["step"] for line in read_json_lines(tmp_path / "moved" / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 13))
    assert (weights(tmp_path / "moved") == weights(tmp_path / "whole")).all()
    store.invalidate_cache()
    (left,) = {Path(path).parts[3] for path in store.find("bucket/copies")}
    assert left == "checkpoint-12"
    assert not any(SECRET.encode() in content for content in tree(tmp_path / "moved").values())


def test_a_finished_run_of_two_processes_whose_folder_is_lost_is_not_trained_again(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = TRAINING | {"steps": 4, "checkpoint_copy": str(tmp_path / "far")}
    recipe = write_recipe(tiny_world, tmp_path, "run", training=training)
    on_two(recipe)
    before, measured = weights(tmp_path / "run"), (tmp_path / "run" / "metrics.jsonl").read_bytes()
    (tmp_path / "run").rename(tmp_path / "lost")
    on_two(recipe)
    assert (weights(tmp_path / "run") == before).all()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == measured
