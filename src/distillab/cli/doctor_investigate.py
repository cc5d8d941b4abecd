"""`distillab doctor investigate`: check batch, tokenizers, rows and logs, one by one and together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def investigate_command(
    batch: Annotated[
        Path | None, typer.Option("--batch", help="Saved batches of the trainer, as for `distillab doctor batch`.")
    ] = None,
    student: Annotated[
        str | None, typer.Option("--student", help="Folder or hub id of the student, or of its tokenizer.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of the teacher, or of its tokenizer.")
    ] = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option("--log", help="A run's folder or log, as for `distillab doctor run`; may be given several times."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="File with training rows: checked; the pair and the unigram line are measured on them.",
        ),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="File with held-out rows: searched for in those of --data.")
    ] = None,
    compares: Annotated[
        Literal["ids", "aligned", "text"] | None,
        typer.Option(
            "--compares",
            help="What the loss compares with the teacher, if no distillab log states it: ids (any divergence between "
            "logits), aligned (made for two tokenizers), text (its answers).",
        ),
    ] = None,
    shifts: Annotated[
        Literal["model", "batch"] | None,
        typer.Option("--shifts", help="What shifts labels against logits by one, as for `distillab doctor batch`."),
    ] = None,
    learns: Annotated[
        Literal["answers", "text", "prompts"] | None,
        typer.Option("--learns", help="What should be scored, as for `distillab doctor batch`."),
    ] = None,
    ignore_index: Annotated[
        int | None, typer.Option("--ignore-index", help="The label that is not scored; default: -100.")
    ] = None,
    pad_id: Annotated[
        int | None, typer.Option("--pad-id", help="Id of the padding, if it is not the tokenizer's.")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option("--vocabulary", help="Ids of the student's tokenizer, as for `distillab doctor run`."),
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check batch, tokenizers, rows and logs, as far as given, one by one and together.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.investigate import investigate

    investigation = investigate(
        batch=batch,
        student=student,
        teacher=teacher,
        logs=logs or (),
        data=data,
        held_out=held_out,
        compares=compares,
        shifts=shifts,
        learns=learns,
        ignore_index=ignore_index,
        pad_id=pad_id,
        vocabulary=vocabulary,
    )
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)
