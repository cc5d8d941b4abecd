"""`distillab recipes`: list the recipes that come with distillab, and copy one."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from distillab.cli.recipes import require_free, write_recipe
from distillab.errors import ConfigError, near_names
from distillab.files import write_text
from distillab.terminal import echo

recipes_app = typer.Typer(name="recipes", invoke_without_command=True, rich_markup_mode=None)
_KIND = re.compile(r"^# yaml-language-server: \$schema=(run|study)\.schema\.json$", re.MULTILINE)
_TITLE = re.compile(r"^title: (.+)$", re.MULTILINE)
_FILE = re.compile(r"\brecipes/([\w-]+/[\w.-]+)")
_SENTENCE = re.compile(r"^#\n# (.+?\.)\s", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class PackagedRecipe:
    """A recipe that comes with distillab: name, text, whether it is a run's or a study's, and one line on it."""

    name: str
    text: str
    kind: Literal["run", "study"]
    about: str

    @property
    def command(self) -> str:
        """The command that reads it."""
        return "train" if self.kind == "run" else "compare"


def packaged_recipes() -> dict[str, PackagedRecipe]:
    """Return the recipes that come with distillab by name; the line on one is its title, or its first sentence."""
    found = {}
    for path in sorted(_folder().glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        kind, about = _KIND.search(text), _TITLE.search(text) or _SENTENCE.search(text)
        if kind is None or about is None:
            raise ConfigError("A recipe of distillab's own has no kind or no title.", where=str(path))
        line = re.sub(r"\n# ", " ", about[1])
        found[path.stem] = PackagedRecipe(path.stem, text, cast(Literal["run", "study"], kind[1]), line)
    return found


def _folder() -> Path:
    """Return `recipes/` of the installed package, or of the checkout from which distillab runs."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def _files_of(text: str) -> dict[str, str]:
    """Return the files of `recipes/` that a recipe names, and that these name, each with its text."""
    found: dict[str, str] = {}
    waiting = _FILE.findall(text)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = (_folder() / name).read_text(encoding="utf-8")
            waiting += _FILE.findall(found[name])
    return found


@recipes_app.callback()
def _recipes(context: typer.Context) -> None:
    """List the recipes that come with distillab; `recipes copy` copies one.

    One line each: its name, the command that reads it, and what it does.
    """
    if context.invoked_subcommand is None:
        recipes = packaged_recipes()
        width = max(map(len, recipes))
        for recipe in recipes.values():
            echo(f"{recipe.name:<{width}}  {recipe.command:<7}  {recipe.about}")
        echo("Copy one: distillab recipes copy NAME")


@recipes_app.command("copy")
def _copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe, as distillab recipes lists it.")],
    to: Annotated[Path | None, typer.Option("--to", help="File or folder to copy it to. Default: NAME.yaml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Copy a recipe, and beside it the schema for editors and the files that it reads.

    The schema is the file that the second line of the recipe names.
    """
    recipes = packaged_recipes()
    if name not in recipes:
        raise ConfigError(
            "There is no such recipe.",
            where=name,
            facts=[near_names(name, recipes)],
            fix="distillab recipes lists them",
        )
    recipe = recipes[name]
    output = to or Path()
    if output.is_dir():
        output = output / f"{name}.yaml"

    def placed(text: str) -> str:
        return _FILE.sub(lambda found: (output.parent / found[1]).as_posix(), text)

    beside = {output.parent / path: placed(text) for path, text in _files_of(recipe.text).items()}
    if not force:
        require_free(output, recipe.kind, beside=beside)
    for path, text in beside.items():
        write_text(path, text)
    file = shlex.quote(str(output))
    write_recipe(output, placed(recipe.text.replace(f"recipes/{name}.yaml", file)), recipe.kind)
    echo(" and ".join(map(str, [output, *beside])) + (" are" if beside else " is") + " written. Next:")
    echo(f"  distillab {recipe.command} {file} --dry-run")
