"""`distillab doctor tasks`: check results of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def tasks_command(
    place: Annotated[Path, typer.Argument(help="results_DATE.json of lm-evaluation-harness, or its folder.")],
    other: Annotated[Path | None, typer.Argument(help="Another one: can the two be compared?")] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check results of lm-evaluation-harness: chance, empty or equal answers, filters, chat template, comparability.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.tasks.audit import audit_tasks

    report_investigation(plain_console(), audit_tasks(place, other), as_json=as_json, report=report)
