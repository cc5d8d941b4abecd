"""Reads tokenised rows of a data set that `datasets.save_to_disk` wrote, by Arrow alone: no code, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from distillab.doctor.batch.rows import BatchRow, GivenBatches, Ints, read_batches
from distillab.errors import DataError
from distillab.library_errors import first_line

# the checks read this many; a comparison with held-out rows reads all
MOST_TOKENS = 1_000_000
_READ = ("input_ids", "labels", "attention_mask", "position_ids", "seq_lens", "sequence_ids", "segment_ids", "seq_idx")


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
    return GivenBatches(given.rows, given.batches, given.boundaries, (*given.notes, note))


def count_rows(folder: Path) -> int:
    """Return how many rows a saved data set has, by the sizes of its record batches.

    Raises:
        DataError: as `load_dataset`.
    """
    rows = 0
    for file in _files(folder):
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                rows += sum(batch.num_rows for batch in stream)
        except (OSError, pa.ArrowException) as error:
            raise DataError("The saved data set is damaged.", where=str(file), facts=[first_line(error)]) from error
    return rows


def texts_of_dataset(folder: Path) -> Iterator[tuple[Ints, Ints | None]]:
    """Ids and attention mask of every row.

    Raises:
        DataError: as `load_dataset`.
    """
    return ((row["input_ids"], row.get("attention_mask")) for row in dataset_rows(folder))


def texts_of_rows(rows: tuple[BatchRow, ...]) -> Iterator[tuple[Ints, Ints | None]]:
    """Ids and attention mask of rows that were read."""
    return ((row.ids, row.attention) for row in rows)


def dataset_rows(folder: Path) -> Iterator[Mapping[str, Ints]]:
    """Every row: name -> (L,) integers, of the columns that a trainer reads.

    Raises:
        DataError: as `load_dataset`.
    """
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
