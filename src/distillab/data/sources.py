"""Read rows from a file, a folder saved by `datasets`, or a hub id. Every row gets a stable key."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillab.config.data import SourceConfig
from distillab.data.textfiles import read_csv, read_json, read_json_lines
from distillab.downloads import START_BYTES, not_downloaded
from distillab.errors import DataError, near_names
from distillab.in_memory import in_memory
from distillab.library_errors import library_errors
from distillab.paths import is_url, local_path
from distillab.redaction import redacted, revealed

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 4096
_Origins = list[tuple[str, dict[str, Any]]]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_KEY_CHARACTERS = 16


@dataclass(frozen=True)
class Row:
    """One row of a source.

    `key` is the row's content (sha256 of its canonical JSON, 16 characters) and its occurrence among
    equal rows, so it is the same in any order. `origin` is the place for messages: `file:line`.
    """

    key: str
    values: dict[str, Any]
    origin: str


def read_rows(source: SourceConfig, *, skipped: list[str] | None = None) -> list[Row]:
    """Read all rows of a source, or its first `limit`.

    An existing path is read by its ending (.jsonl, .ndjson, .json, .parquet, .csv) or as a folder
    written by `datasets.save_to_disk`. A missing path that looks like a file name is an error;
    anything else is taken as a hub id.

    Args:
        skipped: list to which skipped broken lines are added; None: a broken line is an error.
    Raises:
        DataError: missing, empty, unreadable or broken source; unknown ending; unknown split; a split
            of a file; a hub id that cannot be reached.
    """
    if (held := in_memory(source.path)) is not None:
        rows: list[Row] = held
        return rows[: source.limit]
    path = local_path(source.path)
    if path.is_dir():
        found = _saved_folder(path, source)
    elif path.exists():
        found = _file(path, source, skipped)
    elif _looks_local(source.path):
        raise _missing(path, source.path)
    else:
        found = _hub(source)
    if not found:
        raise DataError("The source holds no rows.", where=source.path, fix="check the path and how the file was made")
    written, shown = str(path), redacted(str(path))
    return _with_keys(found if shown == written else [(at.replace(written, shown), values) for at, values in found])


def given_rows(data: object, *, name: str) -> list[Row]:
    """Return the rows of a `datasets.Dataset`, a `pandas.DataFrame` or a list of dicts, with keys as of a file.

    Args:
        name: what they are called in messages: train, train_dataset, …
    Raises:
        DataError: something else, or no rows.
    """
    from datasets import Dataset

    if (frame := sys.modules.get("pandas")) is not None and isinstance(data, frame.DataFrame):
        data = Dataset.from_pandas(data, preserve_index=False)
    if isinstance(data, Dataset):
        found = _from_dataset(data, name, None)
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        found = [(f"{name}, row {number}", dict(row)) for number, row in enumerate(data, start=1)]
    else:
        kind = type(data)
        raise DataError(
            "The rows are an object of another kind.",
            where=name,
            facts=[f"given: {kind.__module__}.{kind.__qualname__}"],
            fix="give a path, a datasets.Dataset (one split of a DatasetDict), a pandas.DataFrame or a list of dicts; "
            "of a stream take rows first: list(stream.take(1000))",
        )
    if not found:
        raise DataError("There are no rows.", where=name)
    return _with_keys(found)


def content_hash(value: Any) -> str:
    """Return sixteen hexadecimal characters of the sha256 of a value's canonical JSON."""
    # default: Parquet holds dates and bytes, which JSON cannot write
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:_KEY_CHARACTERS]


def _with_keys(found: _Origins) -> list[Row]:
    seen: Counter[str] = Counter()
    rows = []
    for origin, values in found:
        digest = content_hash(values)
        rows.append(Row(f"{digest}-{seen[digest]}", values, origin))
        seen[digest] += 1
    return rows


def _file(path: Path, source: SourceConfig, skipped: list[str] | None) -> _Origins:
    if source.split is not None:
        raise DataError(
            "A file has no splits.",
            where=source.path,
            facts=[f'split: "{source.split}"'],
            fix="remove split, or select held-out rows by held_out: {column: …, value: …}",
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f'Files ending in "{path.suffix}" cannot be read.' if path.suffix else "The file's name has no ending.",
            where=str(path),
            fix=f"use one of {', '.join(_READERS)}",
        )
    try:
        if path.stat().st_size == 0:
            raise DataError("The file is empty.", where=str(path), facts=["0 bytes"])
        with path.open("rb") as stream:
            left = not_downloaded(stream.read(START_BYTES))
        if left is not None:
            raise DataError("The file holds no rows.", where=str(path), facts=[left[0]], fix=left[1])
        return reader(path, source.limit, skipped)
    except OSError as error:
        raise DataError(f"The file cannot be read: {error.strerror or error}.", where=str(path)) from error


def _read_parquet(path: Path, limit: int | None, skipped: list[str] | None) -> _Origins:
    import pyarrow.parquet

    from distillab.data.arrow_values import label_names, table_rows

    with (
        library_errors(DataError, "The file is not readable Parquet.", where=str(path)),
        pyarrow.parquet.ParquetFile(path) as file,
    ):
        values: list[dict[str, Any]] = []
        labels = label_names(file.schema_arrow)
        for batch in file.iter_batches(batch_size=_BATCH):
            values.extend(table_rows(batch, labels))
            if limit is not None and len(values) >= limit:
                break
    return [(f"{path}, row {n}", value) for n, value in enumerate(values[:limit], start=1)]


_READERS: dict[str, Callable[[Path, int | None, list[str] | None], _Origins]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": _read_parquet,
    ".csv": read_csv,
}


def _looks_local(path: str) -> bool:
    return Path(path).suffix.lower() in _READERS or not _HUB_ID.fullmatch(path)


def _missing(path: Path, written: str) -> DataError:
    if is_url(written):
        return DataError(
            "Rows are read from a file, a saved folder or a hub's data set, not from a URL.",
            where=written,
            fix="download the file and give its path, or for the hub give organisation/name",
        )
    parent = path.parent
    if not parent.is_dir():
        return DataError("There is no such file.", where=str(path), facts=[f"nor is there a folder {parent}"])
    names = [entry.name for entry in parent.iterdir()]
    fix = near_names(path.name, names) if names and len(names) <= 50 else None
    return DataError("There is no such file.", where=str(path), fix=fix)


def _saved_folder(path: Path, source: SourceConfig) -> _Origins:
    from datasets import DatasetDict, load_from_disk

    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        names = sorted(entry.name for entry in path.iterdir())[:5]
        raise DataError(
            "The folder was not written by datasets.save_to_disk.",
            where=str(path),
            facts=[f"holds: {', '.join(names) or 'nothing'}"],
            fix="name a file in it, or a folder that has state.json or dataset_dict.json",
        )
    with library_errors(DataError, "The saved data set is damaged.", where=str(path)):
        loaded = load_from_disk(str(path))
    if isinstance(loaded, DatasetDict):
        splits = [str(name) for name in loaded]
        wanted = source.split or ("train" if "train" in splits else None)
        if wanted not in splits:
            raise DataError(
                f'The data set has no split "{wanted}".' if wanted else "The data set has several splits.",
                where=str(path),
                facts=[f"splits: {', '.join(splits)}"],
                fix="write split: …",
            )
        return _from_dataset(loaded[wanted], f"{path}, {wanted}", source.limit)
    if source.split is not None:
        raise DataError("The saved data set has no splits.", where=str(path), fix=f'remove split: "{source.split}"')
    return _from_dataset(loaded, str(path), source.limit)


def _hub(source: SourceConfig) -> _Origins:
    from distillab.hub import reach_hub
    from distillab.pretrained import hub_rows

    reach_hub()
    split = source.split or "train"
    with library_errors(
        DataError,
        "There is no such file or folder, and the data set cannot be fetched from the hub.",
        where=f"{source.path}, split {split}",
        fix="for a file, check the path; for a hub id, check the name, the split and the network",
    ):
        loaded = hub_rows(revealed(source.path), split=split)
    return _from_dataset(loaded, f"{source.path}, {split}", source.limit)


def _from_dataset(data: Dataset, name: str, limit: int | None) -> _Origins:
    from datasets import ClassLabel

    from distillab.data.arrow_values import table_rows

    count = len(data) if limit is None else min(limit, len(data))
    labels = {column: feature.names for column, feature in data.features.items() if isinstance(feature, ClassLabel)}
    tables = data.with_format("arrow")
    found = [
        row
        for start in range(0, count, _BATCH)
        for row in table_rows(tables[start : min(start + _BATCH, count)], labels)
    ]
    return [(f"{name}, row {number}", row) for number, row in enumerate(found, start=1)]
