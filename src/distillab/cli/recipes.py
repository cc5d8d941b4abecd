"""Load a recipe file of either kind: a run's or a study's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
