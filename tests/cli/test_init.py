"""`distillab init` writes a recipe that runs, with settings that fit the device; it asks at a terminal only."""

from __future__ import annotations

import json
import os
import pty
import shutil
from pathlib import Path
from typing import Any

import pytest

from distillab.config.loader import load_recipe
from distillab.config.study import StudyRecipe
from tests.cli.conftest import Run
from tests.processes import start_code


def _words(tiny_world: dict[str, Any], **changes: str) -> list[str]:
    given = {"teacher": tiny_world["teacher"]["path"], "student": tiny_world["student"]["path"], "device": "cpu"}
    given |= {"data": tiny_world["data"]["train"]["path"], **changes}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def test_the_recipe_runs_and_is_never_overwritten(
    run: Run, tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("init", "mine.yaml", *_words(tiny_world))
    assert code == 0, err
    assert "recommended: logits" in out and out.endswith("distillab compare mine.yaml\n")
    recipe = load_recipe(StudyRecipe, Path("mine.yaml"))
    assert [arm.name for arm in recipe.arms] == ["sft", "logits"] and recipe.training.microbatch_size == 8
    assert json.loads(Path("study.schema.json").read_text())["properties"]["arms"]
    code, out, err = run("compare", "mine.yaml", "--dry-run")
    assert code == 0 and "6 runs (2 arms, 3 seeds)" in out, err
    before = Path("mine.yaml").read_text()
    code, _, err = run("init", "mine.yaml", *_words(tiny_world))
    assert code == 2 and "there already" in err and Path("mine.yaml").read_text() == before


def test_another_tokenizer_gets_a_method_for_two(run: Run, tiny_world: dict[str, Any], tmp_path: Path) -> None:
    stranger = str(Path(tiny_world["teacher"]["path"]).parent / "stranger")
    code, out, err = run("init", str(tmp_path / "two.yaml"), *_words(tiny_world, teacher=stranger))
    assert code == 0, err
    assert "verdict: different" in out
    assert load_recipe(StudyRecipe, tmp_path / "two.yaml").arms[1].name == out.split("recommended: ")[1].split()[0]


@pytest.mark.parametrize(
    ("width", "blocks", "microbatch", "adapter", "fits"),
    [(4096, 2, 8, False, True), (8192, 4, 1, True, True), (16384, 6, 1, True, False)],
)
def test_settings_fit_the_device(
    width: int,
    blocks: int,
    microbatch: int,
    adapter: bool,
    fits: bool,
    run: Run,
    tiny_world: dict[str, Any],
    tmp_path: Path,
) -> None:
    large = tmp_path / "large"
    shutil.copytree(tiny_world["student"]["path"], large, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((large / "config.json").read_text())
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": 128, "num_hidden_layers": blocks}
    config |= sizes | {"num_attention_heads": width // 128, "num_key_value_heads": 8}
    (large / "config.json").write_text(json.dumps(config))
    code, out, err = run("init", str(tmp_path / "a.yaml"), *_words(tiny_world, student=str(large), device="l4"))
    assert code == 0, err
    recipe = load_recipe(StudyRecipe, tmp_path / "a.yaml")
    assert recipe.training.microbatch_size == microbatch and recipe.training.precision == "bfloat16"
    assert (recipe.student.adapter is not None) == adapter
    assert ("does NOT fit l4" in out) != fits


def test_without_a_terminal_what_is_missing_is_named_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    code, _, err = run("init", str(tmp_path / "a.yaml"), "--teacher", "t")
    assert code == 2 and "--student is missing" in err and list(tmp_path.iterdir()) == []


ASKED = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 0)
sys.stdin = open(0)
sys.argv[:2] = ["distillab"]
from distillab.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_terminal_is_asked(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    asking = start_code(ASKED, os.ttyname(theirs), "init", str(tmp_path / "a.yaml"), *_words(tiny_world)[:4])
    os.write(ours, b"no-such-rows.jsonl\n\n")  # cpu is the default
    out, err = asking.communicate()
    os.close(ours)
    os.close(theirs)
    assert "Rows (" in out and "[cpu]" in out
    assert asking.returncode == 1 and "no-such-rows.jsonl" in err and list(tmp_path.iterdir()) == []
