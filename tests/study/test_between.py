"""Two studies compared: intervals where rows and seeds are the same, else what differs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from distillab.cli.main import app
from distillab.config.study import StudyRecipe
from distillab.errors import DataError
from distillab.report.between import comparison_page, write_comparison
from distillab.runs.folder import read_held_out
from distillab.study.between import compare_studies
from distillab.study.study import Study


@pytest.fixture(scope="module")
def studies(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three studies: of four steps, of six, and of another seed."""
    folder = tmp_path_factory.mktemp("studies")
    longer = {**tiny_world["training"], "steps": 6}
    each: dict[str, dict[str, Any]] = {
        "four": {"arms": ["sft", "logits"]},
        "six": {"arms": ["sft", "seqkd"], "training": longer},
        "seed": {"arms": ["sft"], "seeds": [5]},
    }
    for name, changes in each.items():
        Study(StudyRecipe(**{**tiny_world, **changes, "output": str(folder / name)}), reproduce="").run()
    return {name: folder / name for name in each}


def test_the_same_rows_and_seeds_give_an_interval(studies: dict[str, Path], tmp_path: Path) -> None:
    found = compare_studies(studies["four"], studies["six"])
    (arm,) = found.arms
    assert (arm.name, arm.no_interval, found.only_first, found.only_second) == ("sft", None, ("logits",), ("seqkd",))
    likelihood, fidelity, *_ = arm.figures
    lines = [
        [read_held_out(studies[name] / f"runs/sft/seed{seed}/held_out.jsonl") for seed in (0, 1)]
        for name in ("four", "six")
    ]
    nats = [np.mean([sum(one["nats"] for one in rows) for rows in each]) for each in lines]
    tokens = sum(one["tokens"] for one in lines[0][0])
    assert likelihood.difference is not None
    assert likelihood.difference.mean == pytest.approx((nats[1] - nats[0]) / tokens)
    assert likelihood.second == pytest.approx(nats[1] / tokens)
    assert (likelihood.difference.rows, likelihood.difference.seeds) == (20, 2)
    assert fidelity.family == "fidelity" and fidelity.difference is not None
    assert [what for what, *_ in found.differs] == ["budget"]  # and nothing else
    html = write_comparison(found, tmp_path)[1].read_text(encoding="utf-8")
    assert "4 optimizer steps" in html and "6 optimizer steps" in html
    assert "Only in the first study: logits." in html


def test_a_study_is_no_different_from_itself(studies: dict[str, Path]) -> None:
    found = compare_studies(studies["four"], studies["four"])
    assert not found.differs and [arm.name for arm in found.arms] == ["sft", "logits"]
    assert all(one.difference is not None and one.difference.mean == 0 for arm in found.arms for one in arm.figures)
    assert comparison_page(found).differs is None


def test_other_seeds_or_rows_give_no_interval_and_the_reason(studies: dict[str, Path], tmp_path: Path) -> None:
    found = compare_studies(studies["four"], studies["seed"])
    assert [arm.no_interval for arm in found.arms] == ["seeds 0, 1 and 5"]
    assert all(one.difference is None and one.second is not None for arm in found.arms for one in arm.figures)
    assert "seeds" in [what for what, *_ in found.differs]
    assert comparison_page(found).summary.startswith("The two studies cannot be compared with intervals")

    other = tmp_path / "other"
    shutil.copytree(studies["four"], other)
    path = other / "runs/sft/seed0/held_out.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*rest, first]) + "\n", encoding="utf-8")
    reasons = {arm.name: arm.no_interval for arm in compare_studies(studies["four"], other).arms}
    assert reasons == {"sft": "other held-out rows", "logits": None}


def test_the_command_compares_two_folders(studies: dict[str, Path], tmp_path: Path) -> None:
    words = ["report", str(studies["four"]), str(studies["six"]), "--output", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "of 1 arm that can be compared, in the second study" in " ".join(result.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.html", "comparison.md"]
    with pytest.raises(DataError, match="no finished study"):
        compare_studies(studies["four"], tmp_path)
