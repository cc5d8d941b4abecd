"""Runs whose training rows are streamed: interrupted and resumed, and on two processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from distillab.config.run import RunRecipe
from distillab.errors import ConfigError
from distillab.study.cache_build import cache_builds
from tests.processes import ended, start_distillab, steps_done, wait_for
from tests.runs.test_processes import on_two, weights, write_recipe


def _recipe(
    tiny_world: dict[str, Any], folder: Path, name: str, *, rows: Path | None = None, steps: int = 16, **changes: Any
) -> Path:
    path = rows or Path(tiny_world["data"]["train"]["path"])
    data = {"train": {"path": str(path)}, "streaming": {"buffer": 16}, "held_out": {"first": 10}, "max_tokens": 96}
    training = {"steps": steps, "checkpoint_every": 3, "evaluate_every": 8, "learning_rate": 1e-4}
    return write_recipe(tiny_world, folder, name, data=data, training=training, **changes)


def _record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def test_an_interrupted_run_goes_on_at_its_row(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLAB_CACHE", str(tmp_path / "store"))
    assert ended(start_distillab("train", str(_recipe(tiny_world, tmp_path, "whole"))))[0] == 0
    broken = _recipe(tiny_world, tmp_path, "broken")
    process = start_distillab("train", str(broken))
    wait_for(process, lambda: steps_done(tmp_path / "broken") >= 7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ended(start_distillab("train", str(broken)))[0] == 0
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    one, two = (_record(tmp_path / name) for name in ("whole", "broken"))
    assert one["train_counts"] == two["train_counts"] and one["notes"] == two["notes"]
    assert one["train_counts"]["kept"] >= 16 * 8
    assert "streamed: 3 passes begun" in " ".join(one["notes"])
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_two_processes_take_the_rows_of_one(tiny_world: dict[str, Any], stranger: str, tmp_path: Path) -> None:
    lines = Path(tiny_world["data"]["train"]["path"]).read_text().splitlines()
    rows = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), rows)
    changes = {"rows": rows, "steps": 8, "method": "vocabulary_projection", "teacher": {"path": stranger}}
    assert ended(start_distillab("train", str(_recipe(tiny_world, tmp_path, "one", **changes))))[0] == 0
    on_two(_recipe(tiny_world, tmp_path, "two", **changes))
    assert (weights(tmp_path / "one").float() - weights(tmp_path / "two").float()).abs().max() < 1e-6
    one, two = (_record(tmp_path / name) for name in ("one", "two"))
    assert one["spans"]["rows"] == one["train_counts"]["kept"] >= 8 * 8
    assert one["spans"]["spans"] > 0 and one["train_counts"]["source"] == two["train_counts"]["source"]


def test_a_term_that_counts_the_rows_before_is_refused(
    tiny_world: dict[str, Any], stranger: str, tmp_path: Path
) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"} | {"teacher": {"path": stranger}}
    made = values | {"data": {**values["data"], "streaming": True}, "output": str(tmp_path)}
    with pytest.raises(ValueError, match="form: outcomes or measured, which counts them"):
        RunRecipe(**made, method="measured_transport")
    RunRecipe(**made, method="measured_transport", terms=[{"kind": "measured_transport", "form": "longest_prefix"}])


def test_a_cache_is_refused(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    data = {**values["data"], "streaming": True}
    recipe = RunRecipe(**values | {"data": data, "output": str(tmp_path)}, method="logits")
    with pytest.raises(ConfigError, match="A cache is of rows that are known"):
        cache_builds(recipe)
