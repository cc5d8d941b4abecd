"""`distillab doctor pair`: check a teacher and a student before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def pair_command(
    teacher: Annotated[str, typer.Argument(help="Folder or hub id of the teacher, or of its tokenizer.")],
    student: Annotated[str, typer.Argument(help="Folder or hub id of the student, or of its tokenizer.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="File with rows, as for training. Without it: tokenizers alone.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=2000, help="Number of its first rows to read.")] = 128,
    template: Annotated[
        str,
        typer.Option(
            "--template", help="Template of the rows: auto, plain, chat, alpaca, turns, or a text with {prompt}."
        ),
    ] = "auto",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=8, help="data.max_tokens of the run: rows are truncated there.")
    ] = 256,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="dtype of both models.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda.")] = "auto",
    by_index: Annotated[
        bool,
        typer.Option(
            "--by-index/--across-tokenizers",
            help="Whether the loss compares tokens by their ids; unrelated ids are an error then, else a note.",
        ),
    ] = True,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check a pair: its tokenizers, and by measurement whether the teacher's signal fits the student's tokens.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.pair.audit import audit_pair

    investigation = audit_pair(
        teacher,
        student,
        data,
        rows=rows,
        template=template,
        max_tokens=max_tokens,
        dtype=dtype,
        device=device,
        compares_by_index=by_index,
    )
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)
