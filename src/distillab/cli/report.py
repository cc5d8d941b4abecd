"""`distillab report`: write the report of a finished study again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillab.errors import DataError
from distillab.terminal import echo

_FIX = "give the output folder of a study, with results.json in it"


def report_command(
    folder: Annotated[Path, typer.Argument(help="Output folder of a study, with results.json in it.")],
) -> None:
    """Write report.md and report.html again from FOLDER/results.json; nothing is trained or evaluated."""
    from distillab.report import read_results, write_report

    path = folder / "results.json"
    if not folder.is_dir():
        raise DataError("There is no such folder to report on.", where=str(folder), fix=_FIX)
    if not path.is_file():
        raise DataError("The folder holds no results.json.", where=str(folder), fix=_FIX)
    for written in write_report(read_results(path), folder):
        echo(str(written))
