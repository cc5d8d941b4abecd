"""`distillab train`: one student, one method, one seed."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from distillab.terminal import echo


def train_command(
    recipe: Path = typer.Argument(help="Recipe file (YAML); see recipes/."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe: key.sub=value …"),
    demonstrate_mismatch: bool = typer.Option(
        False,
        "--demonstrate-mismatch",
        help="Allow a loss that compares unrelated tokens by index, to show the failure; every record is marked.",
    ),
) -> None:
    """Train one student from a recipe. After an interruption, the same command resumes."""
    from distillab.cli.console import quiet_libraries, show_run
    from distillab.cli.recipes import show_losses
    from distillab.config import RunRecipe, load_recipe

    loaded = load_recipe(RunRecipe, recipe, overrides or [])
    quiet_libraries()
    from distillab.runs.inputs import load_inputs
    from distillab.runs.run import execute

    is_first = os.environ.get("RANK", "0") == "0"
    inputs = load_inputs(loaded)
    if is_first:
        echo(inputs.held_out_line)
        show_losses(loaded)
    record = execute(inputs.showing_mismatch() if demonstrate_mismatch else inputs)
    if is_first:
        show_run(record)
