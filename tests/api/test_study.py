"""`dl.Study` is the study of `distillab compare`; its table has what the report has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import distillab as dl
from distillab.errors import ConfigError, DataError


def test_objects_are_compared_as_paths_are(
    tiny_world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("training", "evaluation")
    settings = {f"{part}.{key}": value for part in parts for key, value in tiny_world[part].items()}
    common = {
        "student": tiny_world["student"]["path"],
        "teacher": tiny_world["teacher"]["path"],
        "held_out": tiny_world["data"]["held_out"]["path"],
        "arms": ["sft", "logits"],
        "seeds": [0, 1],
        "settings": {**settings, "data.max_tokens": 96},
    }
    file = tiny_world["data"]["train"]["path"]
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    study = dl.Study(**common, train=rows, output=tmp_path / "rows")
    with pytest.raises(DataError, match="no results yet"):
        study.table()
    assert study.run(check=False) is study
    assert "The first comparison is in" in capsys.readouterr().out
    assert "Not finished" not in (tmp_path / "rows" / "report.html").read_text(encoding="utf-8")
    table = study.table()
    expected = dl.Study(**common, train=file, output=tmp_path / "file").run(check=False).table()
    assert table.equals(expected)
    assert list(table.index) == ["undistilled", "teacher", "sft", "logits"]
    logits = study.results.arms[1]
    mean = sum(evaluation.nats_per_token for evaluation in logits.evaluations) / 2
    assert table.loc["logits", "nats_per_token"] == pytest.approx(mean)
    assert table.loc["logits", "against_sft"] == logits.against_sft.mean  # type: ignore[union-attr]
    assert math.isnan(table.loc["sft", "against_sft"])
    assert study.report().read_text(encoding="utf-8").startswith("<!")
    with pytest.raises(ConfigError, match="Workers are separate processes"):
        dl.Study(**{**common, "settings": {"workers": 2}}, train=rows, output=tmp_path / "x")
