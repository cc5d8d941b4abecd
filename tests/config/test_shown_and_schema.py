"""What editors and `distillab show` say of settings: the JSON Schema and the list with sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from distillab.cli.recipes import load_any, schema_command, show_command
from distillab.config import RunRecipe, StudyRecipe
from distillab.config.loader import read_values
from distillab.config.shown import settings_text
from distillab.config.yaml_text import parse

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
KINDS: dict[str, type[RunRecipe | StudyRecipe]] = {"run": RunRecipe, "study": StudyRecipe}


def _problems(values: dict[str, Any], kind: type[RunRecipe | StudyRecipe] = StudyRecipe) -> list[str]:
    return [error.message for error in Draft202012Validator(kind.model_json_schema()).iter_errors(values)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_the_one_that_recipes_name(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    schema_command(kind)
    printed = capsys.readouterr().out
    assert printed == (ROOT / "recipes" / f"{kind}.schema.json").read_text(), f"distillab schema {kind} > recipes/…"
    Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_says_what_it_means(kind: str) -> None:
    schema = KINDS[kind].model_json_schema()
    for name, part in [("", schema), *schema["$defs"].items()]:
        for key, about in part.get("properties", {}).items():
            assert key == "kind" or about.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_follow_their_schema_and_are_shown_as_recipes(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loaded, given = load_any(recipe, ["training.batch_size=6"]), read_values(recipe)
    kind = "study" if isinstance(loaded, StudyRecipe) else "run"
    assert recipe.read_text().splitlines()[1] == f"# yaml-language-server: $schema={kind}.schema.json"
    assert _problems(given, type(loaded)) == []
    text = settings_text(loaded, given, ["training.batch_size=6"])
    assert type(loaded).model_validate(parse(text, where="shown")) == loaded
    assert "  batch_size: 6                                    # command line; default 32" in text


LEAST = {"student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"train": {"path": "d"}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": ["sft", {"name": "own", "method": "logits"}]},
        {"arms": ["sft", {"name": "two", "stages": ["seqkd", "on_policy"]}]},
        {"student": {"from_teacher": {"keep_layers": 12}}},
        {"student": {"from_teacher": {"keep_layers": [0, 3, 5]}}},
        {"student": {"from_teacher": {"keep_layers": {"count": 3, "by": "uniform"}}}},
        {"data": {"train": [{"path": "a", "weight": 1}, {"path": "b", "weight": 2}]}},
    ],
)
def test_what_the_loader_takes_the_schema_takes(changes: dict[str, Any]) -> None:
    StudyRecipe.model_validate(LEAST | changes)
    assert _problems(LEAST | changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": ["sfd"]},
        {"student": {}},
        {"training": {"stepz": 3}},
        {"training": {"steps": 0}},
        {"arms": [{"name": "own", "method": "logits", "terms": [{"kind": "no_such_term"}]}]},
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's, whose text is tested elsewhere)
        StudyRecipe.model_validate(LEAST | changes)
    assert _problems(LEAST | changes)


def test_every_value_has_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROWS", "rows.jsonl")
    recipe = tmp_path / "study.yaml"
    recipe.write_text(
        "teacher: {path: t}\nstudent: {from_teacher: {keep_layers: 2}}\ndata: {train: {path: '${ROWS}'}}\n"
        "arms: [sft, hidden_states]\ntraining: {steps: 300}\n"
    )
    show_command(recipe, ["seeds=[1]"])
    lines = [line.split("#") for line in capsys.readouterr().out.splitlines() if "#" in line]
    sources = [(setting.strip(), source.strip()) for setting, source in lines]
    for setting, source in (
        ('path: "rows.jsonl"', "recipe: ${ROWS}"),
        ("count: 2", "recipe"),
        ('by: "influence"', "default"),
        ("steps: 300", "recipe; default 300"),
        ("batch_size: 32", "default"),
        ("seeds: [1]", "command line; default [0, 1, 2]"),
        ('name: "sft"', "recipe"),
        ("start: 0.1", "derived"),  # of the preset for pretrained students
    ):
        assert (setting, source) in sources
    assert sources.count(('path: "t"', "derived")) == 1 and sources.count(('path: "t"', "recipe")) == 1
