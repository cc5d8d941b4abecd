"""`distillab demo`: the whole investigation on a toy world; no download."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from distillab.cli.preflight import NO_DOCTOR, NoDoctor, checked_first


def demo_command(
    output: Path = typer.Option(Path("demo-output"), help="Folder for models, runs and the report."),
    no_doctor: NoDoctor = False,
) -> None:
    """Train teachers and students on a toy world, compare all methods, and show the two classic errors."""
    from distillab.cli.console import quiet_libraries, show_study

    words = ["distillab", "demo", "--output", str(output)]
    if no_doctor:
        words.append(NO_DOCTOR)
    quiet_libraries()
    from distillab.demo.replay import prepare_replay

    study = prepare_replay(output, reproduce=shlex.join(words))
    show_study(checked_first(study, no_doctor=no_doctor).run(), output / "study")
