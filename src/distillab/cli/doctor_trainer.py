"""`distillab doctor trainer`: check a run of another trainer before it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def trainer_command(
    config: Annotated[Path, typer.Argument(help="The YAML file of axolotl or LLaMA-Factory.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Folder or hub id of the tokenizer; default: the config's model.")
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check a run of axolotl or LLaMA-Factory: its settings, the rows that it prepared, the rows that it reads.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.trainer.audit import audit_trainer

    report_investigation(plain_console(), audit_trainer(config, tokenizer=tokenizer), as_json=as_json, report=report)
