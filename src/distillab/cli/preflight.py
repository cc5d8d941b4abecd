"""`distillab doctor preflight`, and the same checks before a study's first run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.cli.doctor_console import (
    AsJson,
    ReportFolder,
    report_investigation,
    show_finding,
)
from distillab.cli.recipes import show_losses
from distillab.terminal import echo, plain_console, plural

if TYPE_CHECKING:
    from distillab.records import Investigation
    from distillab.study.study import Study

NO_DOCTOR = "--no-doctor"
NoDoctor = Annotated[
    bool,
    typer.Option(NO_DOCTOR, help="Do not check pair, data and recipe before the first run; the report states it."),
]


def preflight_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run or of a study (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key.sub=value …")] = None,
    demonstrate_mismatch: Annotated[
        bool,
        typer.Option("--demonstrate-mismatch", help="Allow arms that compare unrelated tokens by index."),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="Time limit; default 20. Checks beyond it are skipped, and named."),
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check a recipe before the full run: its pair, its data, and its first steps, cache and memory on a few rows.

    Nothing is kept and nothing is written. Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries
    from distillab.cli.recipes import load_any

    loaded = load_any(recipe, overrides or [])
    quiet_libraries()
    from distillab.doctor.clock import LIMIT_S
    from distillab.preflight.recipe import audit_recipe

    investigation = audit_recipe(loaded, demonstrate_mismatch=demonstrate_mismatch, limit_s=seconds or LIMIT_S)
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)


def show_plan(study: Study) -> None:
    """Check what can be checked before a weight is loaded, and print on what the arms learn, and by which losses.

    Raises:
        TokenizerMismatch, ConfigError: the study cannot run.
    """
    study.require_runnable()
    echo(study.held_out_line())
    show_losses(study.recipe)


def checked_first(study: Study, *, no_doctor: bool) -> Study:
    """Return the study with what the doctor found before its first run.

    A result in the study's folder is reused: recipe and files are the same, or the folder is refused. On an error the
    program ends here, before anything was trained or written.

    Args:
        no_doctor: skip the checks, and record that.
    Raises:
        TokenizerMismatch, ConfigError: the study cannot run.
    """
    from dataclasses import replace

    from distillab.records import Investigation, read_record

    show_plan(study)
    kept = study.doctor_record
    known = read_record(Investigation, kept) if kept.exists() else None
    if known is not None and (no_doctor or known.skipped is None):
        return replace(study, investigation=known)
    if no_doctor:
        skipped = Investigation(subject=study.recipe.title, checks=(), skipped=NO_DOCTOR)
        return replace(study, investigation=skipped)
    from distillab.preflight.recipe import audit_study

    found = audit_study(study)
    _show_short(found)
    if any(finding.severity == "error" for finding in found.findings):
        echo(f"Nothing was trained. Fix the errors, or run without these checks: {NO_DOCTOR}.")
        raise typer.Exit(1)
    return replace(study, investigation=found)


def _show_short(investigation: Investigation) -> None:
    """Print one line, and in full what is more than a note; the report has the rest."""
    from distillab.report.findings import counted

    console = plain_console()
    notes = [finding.id for finding in investigation.findings if finding.severity == "note"]
    skipped = sum(one.skipped is not None for one in investigation.checks)
    told = [
        f"Before the first run: {plural(len(investigation.checks), 'check')} of pair, data and recipe",
        counted(investigation.findings) + (f" ({', '.join(notes)})" if notes else ""),
        f"{skipped} left out or not complete" if skipped else "",
    ]
    console.print("; ".join(filter(None, told)) + (" (see the report)" if notes or skipped else ""))
    for finding in investigation.findings:
        if finding.severity != "note":
            console.print()
            show_finding(console, finding)
    console.print()
