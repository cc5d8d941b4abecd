"""`distillab report`: write the report of a finished study again, or compare two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillab.terminal import echo


def report_command(
    folder: Annotated[Path, typer.Argument(help="Output folder of a study, with results.json in it.")],
    other: Annotated[
        Path | None, typer.Argument(help="Another study: compare its arms with those of the first.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the files go; default: FOLDER, and for two studies the folder here.")
    ] = None,
) -> None:
    """Write report.md and report.html again from FOLDER/results.json; nothing is trained or evaluated.

    With two studies: comparison.md and comparison.html, the same arms side by side, and what differs besides.
    """
    if other is None:
        from distillab.records import read_study
        from distillab.report import write_report

        paths = write_report(read_study(folder), output or folder)
    else:
        from distillab.report.between import summary, write_comparison
        from distillab.study.between import compare_studies

        found = compare_studies(folder, other)
        echo(summary(found))
        paths = write_comparison(found, output or Path())
    for written in paths:
        echo(str(written))
