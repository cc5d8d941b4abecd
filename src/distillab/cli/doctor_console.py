"""What `distillab doctor` prints. Everything heavy is imported by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from distillab.doctor.batch.audit import BatchReading
    from distillab.records import Finding, Investigation

AsJson = Annotated[Path | None, typer.Option("--json", help="Write the findings to this file too.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", help="Write investigation.html, .md and .json into this folder too.")
]

_STYLE = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def console_of() -> Console:
    """A console that prints texts as they are."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def show_rows(console: Console, reading: BatchReading, most: int) -> None:
    """The first rows, token by token: what is scored, what is padding."""
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
    """Print what was examined and found, write it where asked, and end with exit code 1 where there is an error."""
    from distillab.records import write_record
    from distillab.report.investigation import write_investigation

    show_investigation(console, investigation)
    written = []
    if as_json is not None:
        write_record(investigation, as_json)
        written.append(as_json)
    if report is not None:
        written += write_investigation(investigation, report)
    if written:
        console.print()
    for path in written:
        console.print(f"written: {path}")
    if any(finding.severity == "error" for finding in investigation.findings):
        raise typer.Exit(1)


def show_investigation(console: Console, investigation: Investigation) -> None:
    """What was looked at, then every finding, the gravest first."""
    from distillab.report.safety import visible

    console.print(visible(investigation.subject), style="bold")
    width = max((len(one.probe) for one in investigation.examined), default=0)
    for one in investigation.examined:
        console.print(visible(f"  {one.probe:<{width}}  {one.looked_at}"))
        if one.not_done:
            console.print(visible(f"  {'':<{width}}  not examined: {one.not_done}"), style="yellow")
    for finding in investigation.findings:
        console.print()
        _show_finding(console, finding)
    console.print()
    counts = [
        f"{number} {severity if number == 1 else severity + 's'}"
        for severity in _STYLE
        if (number := sum(finding.severity == severity for finding in investigation.findings))
    ]
    console.print(", ".join(counts) if counts else "nothing was found", style="bold" if counts else "bold green")


def _show_finding(console: Console, finding: Finding) -> None:
    from distillab.report.safety import visible

    console.print(f"{finding.severity}: {finding.id}", style=_STYLE[finding.severity])
    console.print(visible(finding.title))
    for line in finding.seen:
        console.print(visible(f"  seen:   {line}"))
    for line in finding.example:
        console.print(visible(f"  {line}"), style="dim")
    console.print(visible(f"  means:  {finding.means}"))
    for line in finding.do:
        console.print(visible(f"  do:     {line}"))
    console.print(f"  page:   docs/doctor/{finding.id}.md", style="dim")
