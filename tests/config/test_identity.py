"""What of a recipe decides a figure, and what may change between two calls for the same work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config import RunRecipe, StudyRecipe, load_recipe
from distillab.config.identity import identity_settings
from distillab.errors import ConfigError

RUN: dict[str, Any] = {"student": {"path": "s"}, "data": {"train": {"path": "d/rows.jsonl"}}}
STUDY: dict[str, Any] = RUN | {"teacher": {"path": "t"}}


@pytest.mark.parametrize(
    "change",
    [
        {"output": "elsewhere"},
        {"output": "./runs/study"},
        {"workers": 2},
        {"title": "another"},
        {"training": {"checkpoint_every": 7}},
        {"cache": {"folder": "elsewhere", "rows_per_shard": 2, "compression": "zstd"}},
        {"student": {"path": "./s"}},
        {"data": {"train": {"path": "./d//rows.jsonl"}}},
    ],
    ids=str,
)
def test_a_setting_that_moves_no_figure_is_not_compared(change: dict[str, Any]) -> None:
    assert identity_settings(StudyRecipe(**STUDY | change)) == identity_settings(StudyRecipe(**STUDY))


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [0]},
        {"training": {"steps": 7}},
        {"training": {"device": "cpu"}},
        {"cache": {"seed": 1}},
        {"arms": ["sft"]},
        {"arms": ["sft", "seqkd", {"name": "logits", "method": "logits", "teacher": {"path": "u"}}]},
        {"arms": ["sft", "seqkd", {"name": "logits", "method": "logits", "shown_failure": "x"}]},
        {"student": {"path": "other"}},
        {"data": {"train": {"path": "d/rows.jsonl"}, "max_tokens": 9}},
    ],
    ids=str,
)
def test_every_other_setting_is_compared(change: dict[str, Any]) -> None:
    assert identity_settings(StudyRecipe(**STUDY | change)) != identity_settings(StudyRecipe(**STUDY))


def test_how_a_cache_is_built_is_nothing_to_a_run() -> None:
    assert identity_settings(RunRecipe(**RUN, cache={"seed": 3}, output="x")) == identity_settings(RunRecipe(**RUN))
    assert identity_settings(RunRecipe(**RUN, seed=3)) != identity_settings(RunRecipe(**RUN))


@pytest.mark.parametrize("key", ["output", "student.path", "student.tokenizer", "teacher.path", "teacher.cache"])
def test_a_home_folder_is_expanded_where_the_recipe_is_read(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {path: s}\nteacher: {path: t}\ndata: {train: {path: ~/d}, held_out: {path: ~/h}}\n")
    found = load_recipe(RunRecipe, recipe, [f"{key}=~/x", "cache.folder=~/c"])
    value: Any = found
    for part in key.split("."):
        value = getattr(value, part)
    assert value == "/home/somebody/x"
    assert found.cache is not None and found.cache.folder == "/home/somebody/c"
    assert (found.data.train.path, found.data.held_out.path) == ("/home/somebody/d", "/home/somebody/h")


def test_a_home_folder_that_nobody_has_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {path: s}\ndata: {train: {path: d}}\noutput: ~nobody-of-this-name/x\n")
    with pytest.raises(ConfigError, match="no home folder is known"):
        load_recipe(RunRecipe, recipe)


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "line",
    [
        "training: {learning_rate: NUMBER}",
        "training: {weight_decay: NUMBER}",
        "training: {max_grad_norm: NUMBER}",
        "teacher_answers: {sample: true, temperature: NUMBER}",
        "terms: [{kind: cross_entropy, weight: NUMBER}]",
        "terms: [{kind: cross_entropy}, {kind: token_divergence, weight: {start: 1, end: NUMBER}}]",
        "terms: [{kind: token_divergence, divergence: alpha_beta, alpha: NUMBER, beta: 1}]",
        "terms: [{kind: contrastive, temperature: NUMBER}]",
        "cache: {kinds: [{kind: sampled, temperature: NUMBER}]}",
    ],
)
def test_a_number_that_is_not_finite_is_refused(line: str, number: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = "student: {path: s}\nteacher: {path: t}\nmethod: logits\ndata: {train: {path: d}}\n"
    recipe.write_text(text + line.replace("NUMBER", "1.0"))
    load_recipe(RunRecipe, recipe)
    recipe.write_text(text + line.replace("NUMBER", number))
    with pytest.raises(ConfigError, match="finite number"):
        load_recipe(RunRecipe, recipe)
