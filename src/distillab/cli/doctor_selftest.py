"""`distillab doctor selftest`, and the same before a study's first run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.cli.doctor_console import (
    AsJson,
    ReportFolder,
    report_investigation,
    show_checks,
    show_finding,
)
from distillab.terminal import echo, plain_console

if TYPE_CHECKING:
    from distillab.records import Investigation
    from distillab.study.study import Study

NO_DOCTOR = "--no-doctor"
NoDoctor = Annotated[
    bool,
    typer.Option(NO_DOCTOR, help="Do not examine pair, data and recipe before the first run; the report says so."),
]


def selftest_command(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a run or of a study (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: key.sub=value …")] = None,
    demonstrate_mismatch: Annotated[
        bool,
        typer.Option("--demonstrate-mismatch", help="Arms that compare unrelated tokens by index do so on purpose."),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="What all of it may take; default 60. The rest is left out, and named."),
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Try a recipe before paying for it: its pair, its data, and all that its runs rely on, on a few rows.

    Nothing is trained to keep and nothing is written. Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries
    from distillab.cli.recipes import load_any

    loaded = load_any(recipe, overrides or [])
    quiet_libraries()
    from distillab.doctor.clock import LIMIT_S
    from distillab.doctor.recipe import audit_recipe

    investigation = audit_recipe(loaded, demonstrate_mismatch=demonstrate_mismatch, limit_s=seconds or LIMIT_S)
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)


def checked_first(study: Study, *, no_doctor: bool) -> Study:
    """Return the study with what the doctor found before its first run.

    An examination that stands in the study's folder is taken as it is: recipe and files are the same, or the folder is
    refused. On an error the program ends here, before anything was trained or written.

    Args:
        no_doctor: leave the examination out, and record that.
    Raises:
        TokenizerMismatch, ConfigError: the study cannot run.
    """
    from dataclasses import replace

    from distillab.records import Investigation, read_record

    study.require_runnable()
    echo(study.held_out_line())
    kept = study.doctor_record
    known = read_record(Investigation, kept) if kept.exists() else None
    if known is not None and (no_doctor or known.skipped is None):
        return replace(study, investigation=known)
    if no_doctor:
        skipped = Investigation(subject=study.recipe.title, checks=(), skipped=NO_DOCTOR)
        return replace(study, investigation=skipped)
    from distillab.doctor.recipe import audit_study

    found = audit_study(study)
    _show_short(found)
    if any(finding.severity == "error" for finding in found.findings):
        echo(f"Nothing was trained. Mend what is wrong, or go on all the same with {NO_DOCTOR}: nothing is lost.")
        raise typer.Exit(1)
    return replace(study, investigation=found)


def _show_short(investigation: Investigation) -> None:
    """Print a line a check, and in full what is more than a note; the report has the rest."""
    from distillab.report.findings import counted

    console = plain_console()
    console.print("Before the first run: pair, data and recipe", style="bold")
    show_checks(console, investigation)
    notes = [finding.id for finding in investigation.findings if finding.severity == "note"]
    for finding in investigation.findings:
        if finding.severity != "note":
            console.print()
            show_finding(console, finding)
    console.print()
    console.print(counted(investigation.findings) + (f" ({', '.join(notes)}: in the report)" if notes else ""))
    console.print()
