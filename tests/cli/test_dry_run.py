"""`--dry-run` says what would happen, refuses what would fail, and writes nothing; words are completed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, dumped

PLANS = {
    "compare": "6 runs (3 arms, 2 seeds) of 30 steps of 8 sequences; 0 finished",
    "train": "30 steps of 8 sequences, of 60 rows",
}


def _recipe(command: str, tiny_world: dict[str, Any], folder: Path, **changes: Any) -> str:
    values = {**tiny_world, "output": str(folder / "output"), **changes}
    if command == "train":
        values = {key: value for key, value in values.items() if key != "seeds"} | {"method": "logits"}
    else:
        values |= {"arms": ["sft", "seqkd", "logits"], "seeds": [0, 1]}
    values["training"] = {**values["training"], "steps": 30, "batch_size": 8}
    return dumped(values, folder / f"{command}.yaml")


@pytest.mark.parametrize("command", PLANS)
def test_the_plan_is_printed_and_nothing_is_written(
    command: str, run: Run, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    code, out, _ = run(command, _recipe(command, tiny_world, tmp_path), "--dry-run")
    assert code == 0 and PLANS[command] in out
    assert "logits" in out and "token_divergence" in out
    assert out.endswith("Dry run: no weight was loaded, and nothing was written.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{command}.yaml"]


@pytest.mark.parametrize("command", PLANS)
def test_what_would_fail_is_refused(command: str, run: Run, tiny_world: dict[str, Any], tmp_path: Path) -> None:
    stranger = {"path": str(Path(tiny_world["teacher"]["path"]).parent / "stranger")}
    code, _, err = run(command, _recipe(command, tiny_world, tmp_path, teacher=stranger), "--dry-run")
    assert code == 1 and "TokenizerMismatch" in err
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "notes.txt").touch()
    code, _, err = run(command, _recipe(command, tiny_world, tmp_path), "--dry-run")
    assert code == 2 and str(tmp_path / "output") in err


@pytest.mark.parametrize("command", PLANS)
def test_a_tracker_that_is_not_installed_is_named(
    command: str, run: Run, tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    recipe = _recipe(command, tiny_world, tmp_path)
    for words in ([], ["--dry-run"]):
        code, _, err = run(command, recipe, "training.report_to=[trackio]", *words)
        assert code == 2 and "pip install trackio" in err and not (tmp_path / "output").exists()


def test_words_are_completed() -> None:
    asked = {"_DISTILLAB_COMPLETE": "complete_bash", "COMP_WORDS": "distillab che", "COMP_CWORD": "1"}
    program = Path(sys.executable).parent / "distillab"
    found = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["check"]
