"""`distillab compare`: methods × seeds under one budget, and the report."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer


def compare_command(
    recipe: Path = typer.Argument(help="Study file (YAML); see recipes/."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe: key.sub=value …"),
    demonstrate_mismatch: bool = typer.Option(
        False,
        "--demonstrate-mismatch",
        help="Let arms run that compare unrelated tokens by index, to show the failure; every record is marked.",
    ),
) -> None:
    """Compare methods on one pair; the same command resumes a study that was interrupted."""
    from distillab.cli.console import quiet_libraries, show_study
    from distillab.config import StudyRecipe, load_recipe

    loaded = load_recipe(StudyRecipe, recipe, overrides or [])
    words = ["distillab", "compare", str(recipe), *(overrides or [])]
    if demonstrate_mismatch:
        words.append("--demonstrate-mismatch")
    quiet_libraries()
    from distillab.study.compare import Study

    results = Study(loaded, reproduce=shlex.join(words), demonstrate_mismatch=demonstrate_mismatch).run()
    show_study(results, Path(loaded.output))
