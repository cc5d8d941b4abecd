"""`distillab report`: make the two report files of a finished study anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillab.errors import DataError
from distillab.terminal import echo

_FIX = "give the output folder of a study, the one that holds results.json"


def report_command(
    folder: Annotated[Path, typer.Argument(help="Output folder of a study: the one that holds results.json.")],
) -> None:
    """Make report.md and report.html again from FOLDER/results.json; nothing is measured anew."""
    from distillab.report import read_results, write_report

    path = folder / "results.json"
    if not folder.is_dir():
        raise DataError("There is no such folder to report on.", where=str(folder), fix=_FIX)
    if not path.is_file():
        raise DataError("The folder holds no results.json.", where=str(folder), fix=_FIX)
    for written in write_report(read_results(path), folder):
        echo(str(written))
