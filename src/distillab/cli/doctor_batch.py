"""`distillab doctor batch`: check saved batches, or a tokenised data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillab.cli.doctor_console import AsJson, ReportFolder, report_investigation, show_rows
from distillab.terminal import plain_console

if TYPE_CHECKING:
    from distillab.doctor.batch.rows import GivenBatches, Ints

# These models learn a vector for every position, and transformers counts from the first token of a row, padding or not.
_COUNT_FROM_PADDING = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt")


def batch_command(
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="Folder or hub id of the tokenizer with which it was made.")
    ],
    file: Annotated[
        Path | None, typer.Argument(help="Saved batches: .pt, .safetensors, .json, or .jsonl with a row a line.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset", help="Instead: tokenised rows, a folder written by datasets.save_to_disk, or a .jsonl."
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", help="Tokenised held-out rows, in any of these forms: rows in both are reported."),
    ] = None,
    shifts: Annotated[
        Literal["model", "batch"] | None,
        typer.Option(
            "--shifts",
            help="What shifts labels against logits by one: the model or its loss (transformers), or the batch itself.",
        ),
    ] = None,
    learns: Annotated[
        Literal["answers", "text", "prompts"] | None, typer.Option("--learns", help="What should be scored.")
    ] = None,
    ignore_index: Annotated[int, typer.Option("--ignore-index", help="The label that is not scored.")] = -100,
    pad_id: Annotated[
        int | None, typer.Option("--pad-id", help="Id of the padding, if it is not the tokenizer's.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Rows to print token by token.")] = 3,
    as_json: AsJson = None,
    report: ReportFolder = None,
) -> None:
    """Check the inputs of a trainer: saved batches, or a tokenised data set, with input_ids and labels.

    Exit code 1: an error was found.
    """
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.doctor.batch.audit import Told, run_batch_checks
    from distillab.doctor.batch.packing import check_tokens_overlap
    from distillab.pairing.loading import load_tokenizer, logits_width
    from distillab.records import Investigation

    path = _one_of(file, dataset)
    given = _given(path)
    loaded = load_tokenizer(tokenizer)
    told = Told(shifts, learns, ignore_index, pad_id, logits_width(tokenizer), _counts_from_padding(tokenizer))
    reading = run_batch_checks(given, loaded.tokenizer, told)
    checks = reading.checks
    if held_out is not None:
        checks = (*checks, check_tokens_overlap(_texts(path, given), _texts(held_out, None), reading.facts))
    console = plain_console()
    show_rows(console, reading, show)
    for note in loaded.notes:
        console.print(f"note: {note}", style="yellow")
    report_investigation(console, Investigation(subject=str(path), checks=checks), as_json=as_json, report=report)


def _one_of(file: Path | None, dataset: Path | None) -> Path:
    from distillab.errors import ConfigError

    if file is not None and dataset is None:
        return file
    if dataset is not None and file is None:
        return dataset
    raise ConfigError(
        "Either a file with batches is checked, or a data set.",
        fix="distillab doctor batch FILE --tokenizer …, or distillab doctor batch --dataset FOLDER --tokenizer …",
    )


def _given(path: Path) -> GivenBatches:
    from distillab.doctor.batch.files import load_batches, load_dataset
    from distillab.doctor.batch.rows import read_batches

    return load_dataset(path) if path.is_dir() else read_batches(load_batches(path))


def _texts(path: Path, given: GivenBatches | None) -> Iterator[tuple[Ints, Ints | None]]:
    """Return ids and attention mask of every row; of a data set also of the rows that are not examined."""
    from distillab.doctor.batch.files import texts_of_dataset, texts_of_rows

    return texts_of_dataset(path) if path.is_dir() else texts_of_rows((given or _given(path)).rows)


def _counts_from_padding(tokenizer: str) -> bool | None:
    """Return whether the model beside the tokenizer has learned positions; None if config.json does not state it."""
    from distillab.files import read_json
    from distillab.pairing.loading import find_file

    path = find_file(tokenizer, "config.json", None)
    if path is None:
        return None
    # logits_width has checked that it is a JSON object
    kind = read_json(path).get("model_type")
    return None if kind is None else kind in _COUNT_FROM_PADDING
