"""`distillab doctor data`: check training rows, held-out rows, and a teacher's answers."""

from __future__ import annotations

from typing import Annotated

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def data_command(
    file: Annotated[
        str, typer.Argument(help="Training rows: .jsonl, .json, .parquet, .csv, a saved data set, or a hub id.")
    ],
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="Folder or hub id of the student's tokenizer.")],
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="Held-out rows, in the same form, to compare with.")
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers",
            help="A teacher's answers to FILE: a folder that distillab stored, or a file with prompt and answer "
            "(and finish_reason).",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=4, help="data.max_tokens of the run: rows are truncated there.")
    ] = 512,
    template: Annotated[
        str, typer.Option("--template", help="Template of the rows: auto, plain, chat, alpaca, turns, or a text.")
    ] = "auto",
    prompt_column: Annotated[
        str | None,
        typer.Option(
            "--prompt-column", help="The prompt's column, if its name is not recognised; with --answer-column."
        ),
    ] = None,
    answer_column: Annotated[
        str | None,
        typer.Option(
            "--answer-column", help="The answer's column, if its name is not recognised; with --prompt-column."
        ),
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check rows: lengths, repetitions, overlap, lowest loss, damaged texts, and a teacher's answers.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries
    from distillab.errors import ConfigError

    if (prompt_column is None) != (answer_column is None):
        raise ConfigError("--prompt-column and --answer-column belong together.", fix="give both, or neither")
    quiet_libraries()
    from distillab.config.data import ColumnsConfig
    from distillab.doctor.data.audit import audit_data

    columns = None if prompt_column is None else ColumnsConfig(prompt=prompt_column, answer=answer_column)
    investigation = audit_data(
        file,
        tokenizer,
        held_out=held_out or (),
        answers=answers or (),
        columns=columns,
        template=template,
        max_tokens=max_tokens,
    )
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)
