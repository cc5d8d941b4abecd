"""Recipes that are made to fill memory or to go on for ever are refused before anything is built of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillab.config import RunRecipe, load_recipe
from distillab.config.yaml_text import DEEPEST, LONGEST_BYTES, MOST_VALUES
from distillab.errors import ConfigError

RUN = "student: {path: s}\ndata: {train: {path: d}}\n"


def _multiplying(levels: int, times: int) -> str:
    """Nine lines such as these take all memory: each names the one before ten times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_multiplying(9, 10), "expand to too many values"),
        ("a0: &a {x: 1, y: 2}\n" + "b: &b {<<: [" + "*a, " * 15_000 + "*a]}\n", "expand to too many values"),
        ("a: &a '" + "x" * 500_000 + "'\nb: [" + "*a, " * 1000 + "*a]\n", "expand to too many values"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: " + "[" * 20_000 + "]" * 20_000 + "\n", "nested too deep"),
        ("a: " + "1" * 5000 + "\n", "cannot be read"),
        ("a: 2026-02-30\n", "cannot be read"),
        ("# " + "x" * LONGEST_BYTES + "\n", "too large for a recipe"),
    ],
    ids=["aliases", "merged", "long text", "itself", "deep", "digits", "day", "large"],
)
def test_a_recipe_without_bounds_is_refused(text: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RUN + text)
    with pytest.raises(ConfigError, match=message) as refusal:
        load_recipe(RunRecipe, recipe)
    assert str(recipe) in str(refusal.value)


@pytest.mark.timeout(20)
def test_an_override_without_bounds_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RUN)
    bomb = "{" + ", ".join(_multiplying(9, 10).strip().split("\n")) + "}"
    with pytest.raises(ConfigError, match="expand to too many values"):
        load_recipe(RunRecipe, recipe, [f"name={bomb}"])


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="too large"):
        load_recipe(RunRecipe, Path("/dev/zero"))


def test_an_alias_repeats_what_it_names(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "student: {path: s, tokenizer: &t tokens}\n"
        "teacher: {path: t, tokenizer: *t}\n"
        "data: {train: &rows {path: d}, held_out: {path: d, columns: &c {text: t}}}\n"
        "training: &base {steps: 3}\n"
    )
    found = load_recipe(RunRecipe, recipe)
    assert found.teacher is not None and found.teacher.tokenizer == "tokens"
    assert found.training.steps == 3


def test_as_many_values_as_a_recipe_may_have_are_read(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RUN + "x: [" + "1," * (MOST_VALUES - 100) + "1]\n")
    with pytest.raises(ConfigError, match="x: no such key"):
        load_recipe(RunRecipe, recipe)
    recipe.write_text(RUN + "x: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2) + "\n")
    with pytest.raises(ConfigError, match="x: no such key"):
        load_recipe(RunRecipe, recipe)
