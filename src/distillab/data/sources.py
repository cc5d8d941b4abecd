"""Find rows and read them: files, folders, globs, URLs, hub ids, rows in memory. Every row gets a stable key."""

from __future__ import annotations

import glob
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillab.config.data import SourceConfig
from distillab.data.files import ENDINGS, RowFile, local_file, read_files, remote_files
from distillab.data.textfiles import Placed
from distillab.errors import DataError, near_names
from distillab.in_memory import in_memory
from distillab.library_errors import library_errors
from distillab.paths import is_url, local_path
from distillab.redaction import redacted, revealed

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 4096
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PLACE = re.compile(r"(.*?)(\d+)", re.DOTALL)
_KEY_CHARACTERS = 16
# as json.dumps would, which makes an encoder at every call; default: Parquet holds dates and bytes
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr).encode

Reader = Callable[[list[str] | None], Iterator[Placed]]


@dataclass(frozen=True)
class Row:
    """One row of a source.

    `key` is the row's content (sha256 of its canonical JSON, 16 characters) and its occurrence among
    equal rows, so it is the same in any order. `origin` is the place for messages: `file:line`.
    """

    key: str
    values: dict[str, Any]
    origin: str


@dataclass(frozen=True)
class Source:
    """What a recipe's source names: found, not read.

    Attributes:
        name: for messages.
        facts: paths, sizes and times of its files, as JSON values; equal facts mean equal rows. None: rows in memory.
        size_bytes: of its files.
        reader: of its rows; its argument is a list for skipped broken lines, or None: they are an error.
    """

    name: str
    facts: list[Any] | None
    size_bytes: int
    reader: Reader

    def rows(self, skipped: list[str] | None = None) -> Iterator[Placed]:
        """Read the rows one after the other.

        Raises:
            DataError: an unreadable, broken or empty source.
        """
        row = None
        for row in self.reader(skipped):
            yield row
        if row is None:
            raise DataError(
                "The source holds no rows.", where=self.name, fix="check the path and how the file was made"
            )


def find_source(source: SourceConfig) -> Source:
    """Find the files or the data set of a source.

    An existing path is read by its ending (.jsonl, .ndjson, .json, .parquet, .csv), or as a folder written by
    `datasets.save_to_disk` or with parts in Parquet. A pattern with * stands for all files that match, in the order of
    their names. A URL is opened by fsspec. A missing path that looks like a file name is an error; anything else is
    taken as a hub id.

    Raises:
        DataError: a missing source; unknown ending; a split of a file; a hub id that cannot be reached.
    """
    if (held := in_memory(source.path)) is not None:
        return Source(source.path, None, 0, lambda _: (_place_of(row) for row in held[: source.limit]))
    if is_url(source.path):
        return _of_files(remote_files(source.path), source)
    path = local_path(source.path)
    if path.is_dir():
        return _folder(path, source)
    if path.exists():
        return _of_files([local_file(path)], source)
    if glob.has_magic(str(path)):
        found = sorted(name for name in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if name.is_file())
        if not found:
            raise DataError("No file matches the pattern.", where=source.path)
        return _of_files([local_file(name) for name in found], source)
    if path.suffix.lower() in ENDINGS or not _HUB_ID.fullmatch(source.path):
        raise _missing(path)
    return _hub(source)


def read_rows(source: SourceConfig) -> list[Row]:
    """Read all rows of a source, or its first `limit`, into memory.

    Raises:
        DataError: as `find_source`; empty, unreadable or broken source.
    """
    return _with_keys(find_source(source).rows())


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
        found = _of_dataset(data, name, None)
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        found = ((f"{name}, row ", number, dict(row)) for number, row in enumerate(data, start=1))
    else:
        kind = type(data)
        raise DataError(
            "The rows are an object of another kind.",
            where=name,
            facts=[f"given: {kind.__module__}.{kind.__qualname__}"],
            fix="give a path, a datasets.Dataset (one split of a DatasetDict), a pandas.DataFrame or a list of dicts; "
            "of a stream take rows first: list(stream.take(1000))",
        )
    rows = _with_keys(found)
    if not rows:
        raise DataError("There are no rows.", where=name)
    return rows


def content_hash(value: Any) -> str:
    """Return sixteen hexadecimal characters of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(_CANONICAL(value).encode("ascii")).hexdigest()[:_KEY_CHARACTERS]


def _with_keys(found: Iterable[Placed]) -> list[Row]:
    seen: Counter[str] = Counter()
    rows = []
    for place, number, values in found:
        digest = content_hash(values)
        rows.append(Row(f"{digest}-{seen[digest]}", values, f"{place}{number}"))
        seen[digest] += 1
    return rows


def _place_of(row: Row) -> Placed:
    match = _PLACE.fullmatch(row.origin)
    assert match is not None  # `_with_keys` made it
    return match[1], int(match[2]), row.values


def _of_files(files: Sequence[RowFile], source: SourceConfig) -> Source:
    if source.split is not None:
        raise DataError(
            "A file has no splits.",
            where=source.path,
            facts=[f'split: "{source.split}"'],
            fix="remove split, or select held-out rows by held_out: {column: …, value: …}",
        )
    return Source(
        redacted(source.path),
        [file.facts for file in files],
        sum(file.size_bytes for file in files),
        lambda skipped: read_files(files, source.limit, skipped),
    )


def _missing(path: Path) -> DataError:
    parent = path.parent
    if not parent.is_dir():
        return DataError("There is no such file.", where=str(path), facts=[f"nor is there a folder {parent}"])
    names = [entry.name for entry in parent.iterdir()]
    fix = near_names(path.name, names) if names and len(names) <= 50 else None
    return DataError("There is no such file.", where=str(path), fix=fix)


def _folder(path: Path, source: SourceConfig) -> Source:
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        files = [local_file(name) for name in sorted(path.rglob("*")) if name.is_file()]
        return Source(
            redacted(source.path),
            [source.split, *(file.facts for file in files)],
            sum(file.size_bytes for file in files),
            lambda _: _saved_rows(path, source),
        )
    if parts := sorted(path.glob("*.parquet")):
        return _of_files([local_file(part) for part in parts], source)
    names = sorted(entry.name for entry in path.iterdir())[:5]
    raise DataError(
        "The folder was not written by datasets.save_to_disk, and holds no Parquet file.",
        where=str(path),
        facts=[f"holds: {', '.join(names) or 'nothing'}"],
        fix="name a file in it, or several by a pattern, such as folder/*.jsonl; "
        "or a folder that has state.json or dataset_dict.json",
    )


def _saved_rows(path: Path, source: SourceConfig) -> Iterator[Placed]:
    from datasets import DatasetDict, load_from_disk

    with library_errors(DataError, "The saved data set is damaged.", where=str(path)):
        loaded = load_from_disk(str(path))
    if not isinstance(loaded, DatasetDict):
        if source.split is not None:
            raise DataError("The saved data set has no splits.", where=str(path), fix=f'remove split: "{source.split}"')
        return _of_dataset(loaded, redacted(str(path)), source.limit)
    splits = [str(name) for name in loaded]
    wanted = source.split or ("train" if "train" in splits else None)
    if wanted not in splits:
        raise DataError(
            f'The data set has no split "{wanted}".' if wanted else "The data set has several splits.",
            where=str(path),
            facts=[f"splits: {', '.join(splits)}"],
            fix="write split: …",
        )
    return _of_dataset(loaded[wanted], f"{redacted(str(path))}, {wanted}", source.limit)


def _hub(source: SourceConfig) -> Source:
    from distillab.hub import reach_hub
    from distillab.pretrained import hub_rows

    reach_hub()
    split = source.split or "train"
    name = f"{source.path}, {split}"
    with library_errors(
        DataError,
        "There is no such file or folder, and the data set cannot be fetched from the hub.",
        where=name,
        fix="for a file, check the path; for a hub id, check the name, the split and the network",
    ):
        loaded = hub_rows(revealed(source.path), split=split)
    files = [local_file(Path(cached["filename"])) for cached in loaded.cache_files]
    facts = [source.path, split, *(file.facts for file in files)]
    return Source(
        name, facts, sum(file.size_bytes for file in files), lambda _: _of_dataset(loaded, name, source.limit)
    )


def _of_dataset(data: Dataset, name: str, limit: int | None) -> Iterator[Placed]:
    from datasets import ClassLabel

    from distillab.data.arrow_values import table_rows

    count = len(data) if limit is None else min(limit, len(data))
    labels = {column: feature.names for column, feature in data.features.items() if isinstance(feature, ClassLabel)}
    tables = data.with_format("arrow")
    for start in range(0, count, _BATCH):
        rows = table_rows(tables[start : min(start + _BATCH, count)], labels)
        yield from ((f"{name}, row ", number, row) for number, row in enumerate(rows, start=start + 1))
