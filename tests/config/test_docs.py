"""Every recipe that a method's page shows is one that a run would take, and every term has a page that shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from distillab.config import RunRecipe, load_recipe
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
    assert page.stem in kinds | {"weights"}


def test_every_term_has_a_page() -> None:
    kinds = {settings.model_fields["kind"].default for settings in get_args(get_args(TermConfig)[0])}
    assert kinds | {"weights", "README"} == {page.stem for page in PAGES}
