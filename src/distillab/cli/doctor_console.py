"""Output of `distillab doctor`. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from distillab.doctor.batch.audit import BatchReading
    from distillab.records import Conclusions, Finding, Investigation, PairCheck

AsJson = Annotated[Path | None, typer.Option("--json", help="Write the findings to this file too.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", help="Write investigation.html, .md and .json into this folder too.")
]

_STYLE = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def show_rows(console: Console, reading: BatchReading, most: int) -> None:
    """Print the first rows, token by token: what is scored, what is padding."""
    from distillab.doctor.batch.show import row_line, row_text

    for row in reading.rows[:most]:
        scored, text, padding = int(row.scored.sum()), row.stop - row.start, int(row.padding.sum())
        console.print(f"{row.row.origin}  ({text:,} tokens, {scored:,} scored, {padding:,} padding)", style="bold")
        colours = console.is_terminal and not console.no_color
        console.print(row_text(row, reading.facts) if colours else row_line(row, reading.facts))
        console.print()


def report_investigation(
    console: Console, investigation: Investigation, *, as_json: Path | None, report: Path | None
) -> None:
    """Print scopes and findings, write the requested files, and exit with code 1 if there is an error.

    All formats have the same conclusions.
    """
    from distillab.records import write_record
    from distillab.report.findings import concluded
    from distillab.report.investigation import write_investigation

    whole = concluded(investigation)
    show_investigation(console, whole)
    written = []
    if as_json is not None:
        write_record(whole, as_json)
        written.append(as_json)
    if report is not None:
        written += write_investigation(whole, report)
    if written:
        console.print()
    for path in written:
        console.print(f"written: {path}")
    if any(finding.severity == "error" for finding in whole.findings):
        raise typer.Exit(1)


def show_investigation(console: Console, investigation: Investigation) -> None:
    """Print the checks, the findings (the most severe first), the methods of the pair, and the conclusions."""
    from distillab.report.findings import counted

    for sentence in investigation.outlook:
        console.print(sentence, style="bold yellow")
    console.print(investigation.subject, style="bold")
    if investigation.skipped is not None:
        console.print(f"  skipped by {investigation.skipped}", style="yellow")
    show_checks(console, investigation)
    for finding in investigation.findings:
        console.print()
        show_finding(console, finding)
    if investigation.pairing is not None:
        _show_methods(console, investigation.pairing)
    if investigation.conclusions is not None:
        _show_conclusions(console, investigation.conclusions)
    console.print()
    console.print(counted(investigation.findings), style="bold" if investigation.findings else "bold green")


def show_checks(console: Console, investigation: Investigation) -> None:
    """Print a line for each check, and one more if it was skipped."""
    width = max((len(one.check) for one in investigation.checks), default=0)
    for one in investigation.checks:
        console.print(f"  {one.check:<{width}}  {one.scope}")
        if one.skipped:
            console.print(f"  {'':<{width}}  not checked: {one.skipped}", style="yellow")


def show_finding(console: Console, finding: Finding) -> None:
    """Print one finding in full."""
    console.print(f"{finding.severity}: {finding.id}", style=_STYLE[finding.severity])
    console.print(finding.title)
    for line in finding.evidence:
        console.print(f"  found:  {line}")
    for line in finding.example:
        console.print(f"  {line}", style="dim")
    console.print(f"  means:  {finding.explanation}")
    for line in finding.fix:
        console.print(f"  fix:    {line}")
    console.print(f"  page:   distillab doctor explain {finding.id}", style="dim")


def _show_methods(console: Console, pair: PairCheck) -> None:
    from distillab.report.findings import by_access

    console.print()
    console.print("Valid and refused methods for this pair, by access to the teacher", style="bold")
    for word, style, lines in (
        ("valid", "green", by_access(pair.methods, admitted=True)),
        ("refused", "red", by_access(pair.methods, admitted=False)),
    ):
        for line in lines:
            console.print(f"  {word:<7}  {line}", style=style)
    console.print(f"  recommended: {pair.recommended.method}")
    for reason in pair.recommended.because:
        console.print(f"    - {reason}")


def _show_conclusions(console: Console, conclusions: Conclusions) -> None:
    for number, phase in enumerate(conclusions.phases, start=1):
        console.print()
        console.print(f"Phase {number}: {phase.title}", style="bold")
        for step in phase.steps:
            console.print(f"  - {step}")
    console.print()
    console.print("In short", style="bold")
    for sentence in conclusions.summary:
        console.print(f"  {sentence}")
