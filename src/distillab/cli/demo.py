"""`distillab demo`: the investigation, replayed on a toy world; no download."""

from __future__ import annotations

from pathlib import Path

import typer


def demo_command(
    output: Path = typer.Option(Path("demo-output"), help="Folder for models, runs and the report."),
) -> None:
    """Train teachers and students on a toy world, compare every way, and show the two classic errors."""
    from distillab.cli.console import quiet_libraries, show_study

    quiet_libraries()
    from distillab.demo.replay import replay

    show_study(replay(output), output / "study")
