"""`distillab demo`: the whole investigation on a toy world; no download."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import typer

from distillab.cli.preflight import NO_DOCTOR, NoDoctor, checked_first


def demo_command(
    output: Path = typer.Option(Path("demo-output"), help="Folder for models, runs and the report."),
    no_doctor: NoDoctor = False,
) -> None:
    """Train teachers and students on a toy world, compare all methods, and show the two classic errors."""
    from distillab.cli.console import quiet_libraries, report_so_far, show_study

    words = ["distillab", "demo", "--output", str(output)]
    if no_doctor:
        words.append(NO_DOCTOR)
    quiet_libraries()
    from distillab.demo.replay import prepare_replay
    from distillab.study.workers import leave_imports_alone

    leave_imports_alone()
    folder = output / "study"
    study = replace(prepare_replay(output, reproduce=shlex.join(words)), on_results=report_so_far(folder))
    show_study(checked_first(study, no_doctor=no_doctor).run(), folder)
