"""`distillab doctor run`: check a finished, running or failed run by its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation
from distillab.terminal import plain_console


def run_command(
    place: Annotated[
        Path,
        typer.Argument(
            help="Run or study folder; folder with trainer_state.json, event files of TensorBoard, or what Trackio or "
            "Weights & Biases stored; .json, .jsonl, .csv, or a printed log."
        ),
    ],
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", help="Ids of the student's tokenizer, for another trainer's log.")
    ] = None,
    loss: Annotated[
        Literal["cross_entropy", "divergence"],
        typer.Option("--loss", help="The kind of loss in another trainer's log."),
    ] = "cross_entropy",
    unigram: Annotated[
        float | None, typer.Option("--unigram", help="Nats a token of the unigram model, if known.")
    ] = None,
    entropy: Annotated[
        float | None, typer.Option("--entropy", help="Lowest nats per token that the data allow, if known.")
    ] = None,
    random_student: Annotated[
        bool | None,
        typer.Option(
            "--random-student/--pretrained-student", help="How the student began, if the log does not state it."
        ),
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", help="Microbatches an optimizer step, times processes.")
    ] = None,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check a run by its log: distillab's, a transformers trainer_state.json, output of TRL or axolotl, CSV, JSONL.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.run.audit import audit_run

    investigation = audit_run(
        place,
        vocabulary=vocabulary,
        loss=loss,
        unigram_nats=unigram,
        entropy_nats=entropy,
        random_student=random_student,
        accumulation=accumulation,
    )
    report_investigation(plain_console(), investigation, as_json=as_json, report=report)
