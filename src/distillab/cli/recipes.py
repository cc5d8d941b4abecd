"""Load a recipe file of either kind: a run's or a study's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillab.terminal import echo

if TYPE_CHECKING:
    from distillab.config import RunRecipe, StudyRecipe


def load_any(path: Path, overrides: Sequence[str]) -> RunRecipe | StudyRecipe:
    """Read a recipe; it is a study's if it has `arms`, `seeds` or `title`.

    Raises:
        ConfigError: see `load_recipe`.
    """
    from distillab.config import RunRecipe, StudyRecipe, load_recipe
    from distillab.config.yaml_text import read_text

    if path.is_file() and re.search(r"^(arms|seeds|title)\s*:", read_text(path), re.MULTILINE):
        return load_recipe(StudyRecipe, path, overrides)
    return load_recipe(RunRecipe, path, overrides)


def show_losses(recipe: RunRecipe | StudyRecipe) -> None:
    """Print the terms and weights of each method: presets have others for a student that starts from random weights."""
    from distillab.config import RunRecipe
    from distillab.config.terms import weight_text

    methods = {recipe.method: recipe} if isinstance(recipe, RunRecipe) else {arm.name: arm for arm in recipe.arms}
    echo(f"losses, for a student with {recipe.student.init} weights:")
    for name, method in methods.items():
        terms = " + ".join(f"{weight_text(term.weight)} {term.kind}" for term in method.resolved().terms)
        echo(f"  {name:<{max(map(len, methods))}}  {terms}")
    twins = [] if isinstance(recipe, RunRecipe) else [(arm, recipe.twin_of(arm)) for arm in recipe.arms]
    for arm, twin in twins:
        if twin is not None:
            echo(f"{arm.name} is compared with {twin.name}, the same loss on stored answers (fixed_data_twin: true)")
