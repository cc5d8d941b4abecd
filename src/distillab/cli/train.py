"""`distillab train`: one student, one method, one seed."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from distillab.cli.recipes import NOTHING_DONE, DryRun
from distillab.terminal import echo, plural


def train_command(
    recipe: Path = typer.Argument(help="Recipe file (YAML); distillab recipes lists some."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe: key.sub=value …"),
    demonstrate_mismatch: bool = typer.Option(
        False,
        "--demonstrate-mismatch",
        help="Allow a loss that compares unrelated tokens by index, to show the failure; every record is marked.",
    ),
    dry_run: DryRun = False,
) -> None:
    """Train one student from a recipe. After an interruption, the same command resumes."""
    from distillab.cli.console import quiet_libraries, show_run
    from distillab.cli.recipes import show_losses
    from distillab.config import RunRecipe, load_recipe

    loaded = load_recipe(RunRecipe, recipe, overrides or [])
    quiet_libraries()
    from distillab.runs.inputs import load_inputs
    from distillab.runs.run import execute, require_runnable

    is_first = os.environ.get("RANK", "0") == "0"
    inputs = load_inputs(loaded)
    if demonstrate_mismatch:
        inputs = inputs.showing_mismatch()
    if is_first:
        echo(inputs.held_out_line)
        show_losses(loaded)
    if dry_run:
        require_runnable(inputs)
        training = loaded.training
        rows = plural(len(inputs.train.rows), "row")
        echo(f"{plural(training.steps, 'step')} of {training.batch_size} sequences, of {rows}")
        echo(NOTHING_DONE)
        return
    record = execute(inputs)
    if is_first:
        show_run(record)
