"""Reads a file with saved batches. Nothing that a file holds is ever run."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

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
