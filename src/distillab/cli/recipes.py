"""`distillab schema` and `distillab show`; and recipe files of either kind: a run's or a study's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillab.errors import ConfigError
from distillab.files import write_text
from distillab.terminal import echo

if TYPE_CHECKING:
    from distillab.config import RunRecipe, StudyRecipe

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check pair, rows, recipe and output, print the plan, and do nothing more.")
]
NOTHING_DONE = "Dry run: no weight was loaded, and nothing was written."


def schema_command(
    kind: Annotated[Literal["run", "study"], typer.Argument(help="run: of train; study: of compare.")] = "study",
) -> None:
    """Print the JSON Schema of recipes, for editors: every setting with its type, default and meaning.

    An editor with the YAML language server reads it by a recipe's first line: # yaml-language-server: $schema=FILE
    """
    echo(schema_text(kind).rstrip())


def schema_text(kind: Literal["run", "study"]) -> str:
    """Return the JSON Schema of recipes of a kind."""
    from distillab.config import RunRecipe, StudyRecipe

    chosen: type[RunRecipe | StudyRecipe] = RunRecipe if kind == "run" else StudyRecipe
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | chosen.model_json_schema()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def require_free(
    output: Path, kind: Literal["run", "study"], *, beside: Mapping[Path, str] = MappingProxyType({})
) -> None:
    """Check that a recipe, its schema, and files beside it can be written without replacing anything.

    Raises:
        ConfigError: the recipe's file exists, or one of the others with another text.
    """
    texts = {output: None, _schema_beside(output, kind): schema_text(kind), **beside}
    for path, text in texts.items():
        if path.exists() and (text is None or path.read_text(encoding="utf-8", errors="replace") != text):
            raise ConfigError("The file is there already.", where=str(path), fix="give another name, or remove it")


def write_recipe(output: Path, text: str, kind: Literal["run", "study"]) -> None:
    """Write the text of a recipe, and beside it the schema that its second line names."""
    write_text(output, text)
    write_text(_schema_beside(output, kind), schema_text(kind))


def _schema_beside(output: Path, kind: str) -> Path:
    return output.with_name(f"{kind}.schema.json")


def show_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run or of a study (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key.sub=value …")] = None,
) -> None:
    """Print every setting of a recipe: its value, where the value comes from, and the default.

    What is printed is a recipe itself. Sources: recipe, command line, default; derived: set by the method or by another
    setting.
    """
    from distillab.config.loader import read_values
    from distillab.config.shown import settings_text

    loaded = load_any(recipe, overrides or [])
    echo(settings_text(loaded, read_values(recipe), overrides or []).rstrip())


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
    from distillab.config.term_base import weight_text

    methods = {recipe.method: recipe} if isinstance(recipe, RunRecipe) else {arm.name: arm for arm in recipe.arms}
    echo(f"losses, for a student with {recipe.student.init} weights:")
    for name, method in methods.items():
        terms = " + ".join(f"{weight_text(term.weight)} {term.kind}" for term in method.resolved().terms)
        echo(f"  {name:<{max(map(len, methods))}}  {terms}")
    twins = [] if isinstance(recipe, RunRecipe) else [(arm, recipe.twin_of(arm)) for arm in recipe.arms]
    for arm, twin in twins:
        if twin is not None:
            echo(f"{arm.name} is compared with {twin.name}, the same loss on stored answers (fixed_data_twin: true)")
