"""Every recipe that a method's page shows is one that a run would take, and every term has a page that shows it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import get_args

import pytest

from distillab.config import METHODS, Method, RunRecipe, load_recipe
from distillab.config.term_base import weight_text
from distillab.config.terms import TermConfig

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "methods").glob("*.md"))


def _recipes(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.stem)
def test_the_recipes_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    recipes = _recipes(page)
    assert recipes
    kinds = set()
    for number, text in enumerate(recipes):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        kinds |= {term.kind for term in load_recipe(RunRecipe, path).resolved().terms}
    assert page.stem in kinds | {"weights", "on_policy"}


def _written_by(method: Method) -> str:
    if method.own is not None:
        return "student"
    return "data set" if method.answers == "dataset" else "teacher"


def test_every_page_is_linked_and_every_method_is_listed() -> None:
    text = (PAGES[0].parent / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+)\.md\)", text))
    assert linked == {page.stem for page in PAGES} - {"README"}
    (table,) = re.findall(r"\| method \| answers \| terms, .* \|\n\|---\|---\|---\|---\|\n((?:\|.*\n)+)", text)
    rows = [re.findall(r"^\| `(\w+)` \| (data set|teacher|student) \|", row)[0] for row in table.splitlines()]
    assert rows == [(name, _written_by(method)) for name, method in METHODS.items()]
    for row, method in zip(table.splitlines(), METHODS.values(), strict=True):
        _, _, pretrained, random = row.strip("| ").split(" | ")
        assert (random == "the same") == (method.pretrained is None)
        assert all(weight_text(term.weight) in pretrained for term in method.pretrained or () if term.weight != 1.0)
    front = (PAGES[0].parents[2] / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (?:none|text|logits|internals) \|", front, re.MULTILINE) == list(METHODS)


def test_the_table_of_verdicts_is_what_the_code_admits(tmp_path: Path) -> None:
    root = PAGES[0].parents[2]
    spec = importlib.util.spec_from_file_location("verdict_table", root / "scripts" / "verdict_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--check"]) == 0
    copy = tmp_path / "page.md"
    written = (PAGES[0].parent / "README.md").read_text(encoding="utf-8")
    copy.write_text(written.replace("| `logits` | logits | valid |", "| `logits` | logits | refused |"), "utf-8")
    assert script.main([str(copy), "--check"]) == 1
    assert script.main([str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == written
    copy.write_text("no place", encoding="utf-8")
    assert script.main([str(copy)]) == 2


def test_every_term_has_a_page() -> None:
    kinds = {settings.model_fields["kind"].default for settings in get_args(get_args(TermConfig)[0])}
    assert kinds | {"weights", "on_policy", "README"} == {page.stem for page in PAGES}
