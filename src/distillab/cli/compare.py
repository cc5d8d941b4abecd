"""`distillab compare`: methods × seeds under one budget, and the report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.cli.preflight import NO_DOCTOR, NoDoctor, checked_first, show_plan
from distillab.cli.recipes import NOTHING_DONE, DryRun
from distillab.terminal import echo

Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--engine", help="local: on this machine; ray: on the cluster of RAY_ADDRESS, or Ray on this machine."
    ),
]


def compare_command(
    recipe: Path = typer.Argument(help="Study file (YAML); distillab recipes lists some."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe: key.sub=value …"),
    demonstrate_mismatch: bool = typer.Option(
        False,
        "--demonstrate-mismatch",
        help="Allow arms that compare unrelated tokens by index, to show the failure; every record is marked.",
    ),
    no_doctor: NoDoctor = False,
    engine: Engine = "local",
    dry_run: DryRun = False,
) -> None:
    """Compare methods on one pair, and write a report. After an interruption, the same command resumes.

    Before the first run, the doctor checks pair, data and recipe. Exit code 1: it found an error.
    """
    from distillab.cli.console import quiet_libraries, report_so_far, show_study
    from distillab.config import StudyRecipe, load_recipe
    from distillab.redaction import redacted

    loaded = load_recipe(StudyRecipe, recipe, overrides or [])
    words = ["distillab", "compare", str(recipe), *(overrides or [])]
    if demonstrate_mismatch:
        words.append("--demonstrate-mismatch")
    if no_doctor:
        words.append(NO_DOCTOR)
    if engine != "local":
        words += ["--engine", engine]
    quiet_libraries()
    from distillab.study.study import Study
    from distillab.study.workers import leave_imports_alone

    leave_imports_alone()
    folder = Path(loaded.output)
    reproduce = redacted(shlex.join(words))
    study = Study(loaded, reproduce=reproduce, engine=engine, on_results=report_so_far(folder))
    if demonstrate_mismatch:
        study = study.showing_mismatches()
    if dry_run:
        show_plan(study)
        echo(study.plan_line())
        echo(NOTHING_DONE)
        return
    show_study(checked_first(study, no_doctor=no_doctor).run(), folder)
