"""`distillab doctor batch`: what a trainer is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, console_of, report_investigation, show_rows

# These models learn a vector for every position, and transformers counts from the first token of a row, padding or not.
_COUNT_FROM_PADDING = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt")


def batch_command(
    file: Annotated[Path, typer.Argument(help="Saved batches: .pt, .safetensors, .json, or .jsonl with a row a line.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="Folder or hub id of the tokenizer with which it was made.")
    ],
    shifts: Annotated[
        Literal["model", "batch"] | None,
        typer.Option(
            "--shifts",
            help="Who moves labels against logits by one: the model or its loss (transformers), or the batch itself.",
        ),
    ] = None,
    learns: Annotated[
        Literal["answers", "text"] | None, typer.Option("--learns", help="What should be scored.")
    ] = None,
    ignore_index: Annotated[int, typer.Option("--ignore-index", help="The label that is not scored.")] = -100,
    pad_id: Annotated[
        int | None, typer.Option("--pad-id", help="Id of the padding, where it is not the tokenizer's.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Rows to print token by token.")] = 3,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Examine what a trainer is given: saved batches with input_ids and labels.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.batch.audit import examine_batch
    from distillab.doctor.batch.files import load_batches
    from distillab.doctor.batch.rows import read_batches
    from distillab.pairing.loading import load_tokenizer, logits_width
    from distillab.records import Investigation

    given = read_batches(load_batches(file))
    loaded = load_tokenizer(tokenizer)
    reading = examine_batch(
        given,
        loaded.tokenizer,
        shifts=shifts,
        learns=learns,
        ignore_index=ignore_index,
        pad_id=pad_id,
        vocabulary=logits_width(tokenizer),
        absolute_positions=_counts_from_padding(tokenizer),
    )
    console = console_of()
    show_rows(console, reading, show)
    for note in loaded.notes:
        console.print(f"note: {note}", style="yellow")
    report_investigation(
        console, Investigation(subject=str(file), examined=reading.examined), as_json=as_json, report=report
    )


def _counts_from_padding(tokenizer: str) -> bool | None:
    """Whether the model beside the tokenizer learns positions; None where there is no config.json, or it is silent."""
    import json

    from distillab.pairing.loading import find_file

    path = find_file(tokenizer, "config.json", None)
    if path is None:
        return None
    # logits_width has read it before, and refused what is no JSON object
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    return None if kind is None else kind in _COUNT_FROM_PADDING
