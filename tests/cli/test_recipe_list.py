"""`distillab recipes` lists what is in recipes/; a copy has its own path and a schema, and replaces nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_every_recipe_is_listed_with_its_command_and_a_line(run: Run) -> None:
    code, out, err = run("recipes")
    assert code == 0, err
    listed = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()[:-1]}
    assert sorted(listed) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert listed["minimal"] == ["train", "The smallest recipe of a run: a student, a teacher, rows."]
    assert listed["real-small"] == ["compare", "A small real pair on real stories"]
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_copy_names_itself_and_a_schema_that_is_there(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("recipes", "copy", name, "--to", "my recipes/mine.yaml")
    assert code == 0, err
    first, second, *rest = Path("my recipes/mine.yaml").read_text().splitlines()
    command = out.splitlines()[1].split()[1]
    assert f"distillab {command} 'my recipes/mine.yaml'" in first and "recipes/" + name not in "\n".join(rest)
    schema = Path("my recipes") / second.partition("$schema=")[2]
    assert ("arms" in json.loads(schema.read_text())["properties"]) == (command == "compare")
    # what it reads beside the models and rows is copied, too
    for path in re.findall(r"path: ([\w ./-]+\.ya?ml)", "\n".join(rest)):
        rows = re.findall(r"test: ([\w ./-]+)", Path(path).read_text())
        assert path.startswith("my recipes/") and rows and all(Path(row).is_file() for row in rows)
    assert rest[-1:] == (RECIPES / f"{name}.yaml").read_text().splitlines()[-1:]


def test_nothing_is_replaced_without_force(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minimal.yaml").write_text("mine")
    code, _, err = run("recipes", "copy", "minimal")
    assert code == 2 and "there already" in err and Path("minimal.yaml").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["minimal.yaml"]
    Path("tasks").mkdir()
    Path("tasks/endings.jsonl").write_text("mine")
    code, _, err = run("recipes", "copy", "with-tasks")
    assert code == 2 and "endings.jsonl" in err and not Path("with-tasks.yaml").exists()
    Path("run.schema.json").write_text("{}")
    code, _, err = run("recipes", "copy", "minimal", "--to", "other.yaml")
    assert code == 2 and "run.schema.json" in err and not Path("other.yaml").exists()
    code, _, err = run("recipes", "copy", "minimal", "--force")
    assert code == 0 and Path("minimal.yaml").read_text().startswith("# distillab train minimal.yaml\n"), err
    assert Path("run.schema.json").read_text() == (RECIPES / "run.schema.json").read_text()


def test_a_wrong_name_gets_the_nearest(run: Run) -> None:
    code, _, err = run("recipes", "copy", "minmal")
    assert code == 2 and 'did you mean "minimal"?' in err
