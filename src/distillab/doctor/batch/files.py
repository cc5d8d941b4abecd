"""Reads saved batches, and rows that `datasets.save_to_disk` wrote. Nothing that a file holds is ever run."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distillab.doctor.batch.rows import BatchRow, GivenBatches, Ints, read_batches
from distillab.errors import DataError
from distillab.library_errors import first_line

MAX_BYTES = 2 << 30
# what torch's restricted reader of pickles raises on bytes that are none, or not quite
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    NotImplementedError,
)
_KINDS = "safetensors, pt, pth, bin, json, jsonl"
# the checks read this many; a comparison with held-out rows reads all
MOST_TOKENS = 1_000_000
_READ = ("input_ids", "labels", "attention_mask", "position_ids", "seq_lens", "sequence_ids", "segment_ids", "seq_idx")


def load_batches(path: Path) -> object:
    """What `read_batches` takes, from a file.

    * `.safetensors`: one batch; or several, whose tensors are named `0.input_ids`, `0.labels`, `1.input_ids`, …
    * `.pt`, `.pth`, `.bin`: a dict, or a list of dicts, saved by torch.save; read with weights_only=True.
    * `.json`: the same as JSON; `.jsonl`: a row a line, with `input_ids` and `labels` as lists.

    Raises:
        DataError: no such file, more than 2 GiB, another ending, or it cannot be read.
    """
    if not path.is_file():
        raise DataError("There is no such file.", where=str(path), fix="give a file with saved batches")
    _require_small(path, path.stat().st_size)
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return _safetensors(path)
    if ending in (".pt", ".pth", ".bin"):
        return _torch(path)
    if ending in (".json", ".jsonl"):
        return _json(path, lines=ending == ".jsonl")
    raise DataError(
        "The file's ending is not known.",
        where=str(path),
        facts=[f"ending: {ending or 'none'}", f"known: {_KINDS}"],
        fix="torch.save(dict(batch), 'batch.pt'), or safetensors.torch.save_file(batch, 'batch.safetensors')",
    )


def _require_small(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(
            "The file is larger than an examination needs.",
            where=str(path),
            facts=[f"{size:,} bytes when unpacked; at most {MAX_BYTES:,} are read"],
            fix="save a few batches",
        )


def _safetensors(path: Path) -> object:
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError("The file is no safetensors file.", where=str(path), facts=[first_line(error)]) from error
    batches: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, dot, key = name.partition(".")
        if not dot or not number.isascii() or not number.isdigit():
            return tensors
        batches.setdefault(number, {})[key] = tensor
    return [batches[number] for number in sorted(batches, key=int)]


def _torch(path: Path) -> object:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _require_small(path, sum(member.file_size for member in archive.infolist()))
        with warnings.catch_warnings():
            # torch warns of other pickle protocols, and then reads or refuses them
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            "The file does not hold plain tensors, or is damaged.",
            where=str(path),
            facts=[_why_not_loaded(error)],
            fix="save it as torch.save({name: tensor for name, tensor in batch.items()}, 'batch.pt'); objects other "
            "than tensors, lists and dicts are never loaded",
        ) from error


def _why_not_loaded(error: Exception) -> str:
    # torch begins with how to load the file all the same; what matters is what it refused
    refused = re.search(r"WeightsUnpickler error:\s*(.+?)(?: Please use .*)?$", str(error), re.MULTILINE)
    return refused[1] if refused else first_line(error)


def _json(path: Path, *, lines: bool) -> object:
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
        if not lines:
            return json.loads(text)
        rows: list[Any] = []
        for number, line in enumerate(text.split("\n"), start=1):
            where = f"{path}, line {number}"
            if line.strip():
                rows.append(json.loads(line))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DataError("The file is not JSON.", where=where, facts=[first_line(error)]) from error
    return _as_one_batch(rows, path)


def _as_one_batch(rows: list[Any], path: Path) -> dict[str, list[Any]]:
    """Rows of one file are one batch of rows of different lengths."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError("A line is no row.", where=f"{path}, row {number}", facts=[f"got: {type(row).__name__}"])
        if row.keys() != rows[0].keys():
            raise DataError(
                "Rows have different keys.",
                where=f"{path}, row {number}",
                facts=[f"row 1: {ascii(sorted(rows[0]))[:200]}", f"row {number}: {ascii(sorted(row))[:200]}"],
            )
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def load_dataset(folder: Path) -> GivenBatches:
    """The first rows of a saved data set, up to a million tokens, as one batch.

    Raises:
        DataError: it is no such folder, is damaged, or its rows are no tokenised rows.
    """
    taken: list[Mapping[str, Ints]] = []
    tokens = total = 0
    for row in dataset_rows(folder):
        total += 1
        if taken and tokens + len(row["input_ids"]) > MOST_TOKENS:
            continue
        tokens += len(row["input_ids"])
        taken.append(row)
    if not taken:
        raise DataError("The saved data set has no rows.", where=str(folder))
    if "labels" not in taken[0]:
        raise DataError(
            "The rows have no labels, so a collator makes them.",
            where=str(folder),
            facts=[f"columns with ids: {', '.join(taken[0])}"],
            fix="save some of the collator's batches: torch.save(batch, 'batch.pt'); distillab doctor batch batch.pt",
        )
    given = read_batches({key: [row[key] for row in taken] for key in taken[0]})
    if len(taken) == total:
        return given
    note = f"{len(taken):,} of {total:,} rows, {tokens:,} tokens"
    return replace(given, notes=(*given.notes, note), total=total)


def texts_of_dataset(folder: Path) -> Iterator[tuple[Ints, Ints | None]]:
    """Ids and attention mask of every row."""
    return ((row["input_ids"], row.get("attention_mask")) for row in dataset_rows(folder))


def texts_of_rows(rows: tuple[BatchRow, ...]) -> Iterator[tuple[Ints, Ints | None]]:
    """Ids and attention mask of rows that were read."""
    return ((row.ids, row.attention) for row in rows)


def dataset_rows(folder: Path) -> Iterator[Mapping[str, Ints]]:
    """Every row: name -> (L,) integers, of the columns that a trainer reads."""
    number = count(1)
    for file in _files(folder):
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                names = [name for name in _READ if name in stream.schema.names]
                _require_ids(names, stream.schema.names, folder)
                for batch in stream:
                    columns = {name: _lists(batch.column(name), name, folder) for name in names}
                    for values in zip(*columns.values(), strict=True):
                        yield dict(zip(names, _equal(values, names, f"{folder}, row {next(number)}"), strict=True))
        except (OSError, pa.ArrowException) as error:
            raise DataError("The saved data set is damaged.", where=str(file), facts=[first_line(error)]) from error


def _files(folder: Path) -> list[Path]:
    """The Arrow files that state.json names, each in the folder itself."""
    if (folder / "dataset_dict.json").is_file():
        names = sorted(entry.name for entry in folder.iterdir() if (entry / "state.json").is_file())
        raise DataError(
            "The folder holds several splits.",
            where=str(folder),
            facts=[f"splits: {', '.join(names) or 'none'}"],
            fix=f"name one of them: {folder / names[0]}" if names else None,
        )
    state = folder / "state.json"
    if not state.is_file():
        raise DataError(
            "The folder was not written by datasets.save_to_disk: it has no state.json.",
            where=str(folder),
            fix="dataset.save_to_disk('rows'), or dataset.to_json('rows.jsonl')",
        )
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in content["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("state.json does not name the data files.", where=str(state), facts=[repr(error)]) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError("state.json names a file outside of its folder.", where=str(state), facts=[ascii(name)])
    return [folder / name for name in names]


def _require_ids(names: list[str], columns: list[str], folder: Path) -> None:
    if "input_ids" not in names:
        raise DataError(
            "The saved rows are not tokenised: there is no column input_ids.",
            where=str(folder),
            facts=[f"columns: {', '.join(columns)[:200]}"],
            fix=f"examine texts with `distillab doctor data {folder} --tokenizer …`",
        )


def _lists(column: pa.Array, name: str, folder: Path) -> list[Ints]:
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not (pa.types.is_integer(kind.value_type) or pa.types.is_boolean(kind.value_type)):
        raise DataError(f"The column {name} does not hold lists of integers.", where=str(folder), facts=[str(kind)])
    values = column.flatten()
    if column.null_count or values.null_count:
        raise DataError(f"The column {name} has rows or numbers that are null.", where=str(folder))
    numbers = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    ends = np.cumsum([0, *column.value_lengths().to_pylist()])
    return [numbers[first:last] for first, last in pairwise(ends)]


def _equal(values: tuple[Ints, ...], names: list[str], where: str) -> tuple[Ints, ...]:
    sizes = {name: len(value) for name, value in zip(names, values, strict=True) if name in _READ[:4]}
    if len(set(sizes.values())) > 1:
        raise DataError(
            "A row's columns have different lengths.",
            where=where,
            facts=[f"{name}: {size}" for name, size in sizes.items()],
        )
    return values
