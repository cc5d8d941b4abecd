"""Turn the rows of a source into a table of examples, which is kept in the store and found again by its fingerprint."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data.example_table import (
    BATCH_ROWS,
    ENTRY,
    ExampleTable,
    TableFacts,
    TextFile,
    Texts,
    schema_of,
    text_batch,
)
from distillab.data.examples import Example
from distillab.data.row_examples import made_examples, unreadable, without
from distillab.data.shapes import Columns, Shape, recognise
from distillab.data.sources import Row, Source, content_hash, find_source
from distillab.data.store import fingerprint_of, stored
from distillab.data.textfiles import Placed
from distillab.errors import DataError

_VERSION = 1
"""Raised when the same rows become other examples, or the files of the store change."""

_SMALLEST_STORED_BYTES = 1 << 20
_SMALLEST_STORED_ROWS = 5_000
_TEXTS, _INDEX, _FACTS = "texts.arrow", "index.npy", "facts.json"
_SHOWN = 10


@dataclass(frozen=True)
class Reading:
    """How rows become examples.

    Attributes:
        prompt_share, beside, columns: as of `examples_of`.
        on_bad_row: raise an error for rows that cannot be read, or skip them.
        held_out: a column and its value for held-out rows.
    """

    prompt_share: float
    on_bad_row: Literal["error", "skip"] = "error"
    beside: tuple[str, ...] = ()
    held_out: tuple[str, str] | None = None
    columns: ColumnsConfig | None = None

    def settings(self) -> list[Any]:
        """Return the settings that decide what examples hold, as JSON values."""
        columns = None if self.columns is None else self.columns.model_dump()
        return [_VERSION, columns, self.prompt_share, self.beside]


@dataclass(frozen=True)
class TableRows:
    """The examples of a source.

    Attributes:
        examples: in the order of the rows; a row with several answers gives one for each.
        shape: how the rows were read.
        skipped: rows that could not be read, each with its place and the reason.
        drawn: of several sources: how many rows of each are in, one line each.
    """

    examples: ExampleTable
    shape: Shape
    skipped: tuple[str, ...]
    drawn: tuple[str, ...] = ()

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Return (N,) bool: which examples the column of `Reading.held_out` names."""
        return np.asarray(self.examples.entries["held_out"][self.examples.chosen])


@dataclass(frozen=True)
class _Facts:
    """What the store keeps beside text and index."""

    shape: Shape
    places: tuple[str, ...]
    skipped: tuple[str, ...]


def read_table(config: SourceConfig, reading: Reading, *, stores: bool = True) -> TableRows:
    """Read the examples of a source: from the store, or from the source, and keep them in the store.

    The store finds them by the facts of the source's files (path, size, times), the settings of the source and those
    of `reading`. Small sources, and the rows of a Python session, are read anew each time.

    Args:
        stores: False: nothing is looked for or kept in the store.
    Raises:
        DataError: as `find_source` and `examples_of`.
    """
    source = find_source(config)
    small = source.size_bytes < _SMALLEST_STORED_BYTES
    if (
        not stores
        or source.facts is None
        or small
        or (config.limit is not None and config.limit < _SMALLEST_STORED_ROWS)
    ):
        memory = io.BytesIO()
        facts, index = _build(source, reading, memory)
        return _table(memory.getvalue(), index, facts, reading)
    settings = [source.facts, config.limit, reading.on_bad_row, reading.held_out, reading.settings()]
    folder = stored("rows", fingerprint_of(settings), lambda folder: _fill(folder, source, config, reading))
    facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=_Facts)
    return _table(folder / _TEXTS, np.load(folder / _INDEX, mmap_mode="r"), facts, reading)


def _table(texts: Path | bytes, index: npt.NDArray[Any], facts: _Facts, reading: Reading) -> TableRows:
    settings = fingerprint_of(reading.settings(), str(replace(facts.shape, ignored=())))
    table = TableFacts(facts.shape.kind, settings, facts.places)
    examples = ExampleTable(Texts([TextFile(texts, len(index))]), index, table)
    return TableRows(examples, facts.shape, facts.skipped)


def _fill(folder: Path, source: Source, config: SourceConfig, reading: Reading) -> None:
    with (folder / _TEXTS).open("wb") as file:
        facts, index = _build(source, reading, file)
    if find_source(config).facts != source.facts:
        raise DataError("The rows changed while they were read.", where=source.name, fix="start again")
    np.save(folder / _INDEX, index)
    (folder / _FACTS).write_bytes(msgspec.json.encode(facts))


def _build(source: Source, reading: Reading, file: BinaryIO) -> tuple[_Facts, npt.NDArray[Any]]:
    """Write the text of a source's examples; return the rest.

    The first rows show the shape. If later rows show another one, all are read again.
    """
    shape: Shape | None = None
    while True:
        columns, skipped, table = Columns(), list[str](), None
        file.seek(0)
        file.truncate()
        for batch in _batches(source.rows(skipped if reading.on_bad_row == "skip" else None)):
            columns.add((values for _, _, values in batch), origin=f"{batch[0][0]}{batch[0][1]}")
            if table is None:
                shape = shape or _shape_so_far(columns, reading)
                table = _Writer(shape, reading, file)
            table.add(batch)
        assert table is not None  # a source without rows is an error
        found = without(recognise(columns, reading.columns), reading.beside)
        if shape is not None and replace(found, ignored=()) == replace(shape, ignored=()):
            index, places = table.close(found, columns.source)
            return _Facts(found, tuple(places), (*skipped, *table.problems)), index
        shape = found


def _shape_so_far(columns: Columns, reading: Reading) -> Shape | None:
    try:
        return recognise(columns, reading.columns)
    except DataError:  # later rows can have the missing columns
        return None


def _batches(rows: Iterator[Placed]) -> Iterator[list[Placed]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


class _Writer:
    """Makes the examples of rows by one shape, and writes their text in full record batches."""

    def __init__(self, shape: Shape | None, reading: Reading, file: BinaryIO) -> None:
        self.problems: list[str] = []
        self._shape, self._reading = shape, reading
        self._rows = 0
        self._waiting: list[Example] = []
        self._index: list[npt.NDArray[Any]] = []
        self._places: dict[str, int] = {}
        self._held_out = _HeldOut(reading.held_out)
        if shape is not None:
            self._schema = schema_of(shape.kind, beside=bool(reading.beside))
            self._sink = pa.ipc.new_file(file, self._schema)

    def add(self, batch: Sequence[Placed]) -> None:
        """Make the examples of rows."""
        self._rows += len(batch)
        if self._shape is None:
            return
        entries: list[tuple[Any, ...]] = []
        for place, number, values in batch:
            row = Row(content_hash(values), values, f"{place}{number}")
            held_out = self._held_out.of(row)
            before = self._places.setdefault(place, len(self._places))
            for example in made_examples(
                [row],
                self._shape,
                prompt_share=self._reading.prompt_share,
                beside=self._reading.beside,
                problems=self.problems,
            ):
                self._waiting.append(example)
                answer = int(example.key[len(row.key) + 1 :] or -1)
                content, prompt = int(example.content, 16), int(example.prompt_hash, 16)
                entries.append((int(row.key, 16), 0, answer, before, number, content, prompt, held_out))
        self._index.append(np.array(entries, dtype=ENTRY))
        while len(self._waiting) >= BATCH_ROWS:
            self._write(self._waiting[:BATCH_ROWS])
            del self._waiting[:BATCH_ROWS]

    def close(self, shape: Shape, source: str) -> tuple[npt.NDArray[Any], list[str]]:
        """Write the rest; return the index, and the texts before the numbers of origins.

        Raises:
            DataError: rows that cannot be read, or without the column that names the held-out rows.
        """
        if self._waiting:
            self._write(self._waiting)
        self._sink.close()
        index = np.concatenate(self._index) if self._index else np.empty(0, ENTRY)
        if self.problems and (self._reading.on_bad_row == "error" or not len(index)):
            raise unreadable(self.problems, self._rows, shape, where=source)
        self._held_out.check(self._rows)
        index["occurrence"] = occurrences(index["row"], index["answer"])
        return index, list(self._places)

    def _write(self, examples: Sequence[Example]) -> None:
        self._sink.write_batch(text_batch(examples, self._schema))


class _HeldOut:
    """Finds the rows that a column names as held out."""

    def __init__(self, wanted: tuple[str, str] | None) -> None:
        self._wanted = wanted
        self._first = ""
        self._lacking: list[str] = []
        self._values: set[str] = set()
        self._more = self._any = False

    def of(self, row: Row) -> bool:
        """Return whether a row is held out."""
        if self._wanted is None:
            return False
        column, wanted = self._wanted
        self._first = self._first or row.origin
        if column not in row.values:
            self._lacking.append(row.origin)
            return False
        value = str(row.values[column])
        self._any = self._any or value == wanted
        self._values.add(value)
        if len(self._values) > _SHOWN:
            self._values, self._more = set(heapq.nsmallest(_SHOWN, self._values)), True
        return value == wanted

    def check(self, rows: int) -> None:
        """Check that every row has the column, and one the value.

        Raises:
            DataError: they do not.
        """
        if self._wanted is None:
            return
        column, wanted = self._wanted
        if self._lacking:
            raise DataError(
                f'{len(self._lacking)} of {rows} rows have no column "{column}", which names the split.',
                facts=self._lacking[:5],
                where=self._first,
            )
        if not self._any:
            raise DataError(
                f'No row has {column} = "{wanted}".',
                where=self._first,
                facts=[f"values: {', '.join(sorted(self._values))}" + (" …" if self._more else "")],
            )


def occurrences(rows: npt.NDArray[np.uint64], answers: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return for each example how many equal rows came before its own.

    Args:
        rows: (N,) hash of the row of each example.
        answers: (N,) number of the answer within its row; -1 or 0 begins a row.

    >>> occurrences(np.array([7, 8, 7, 7, 8], np.uint64), np.array([-1, -1, 0, 1, -1], np.int32)).tolist()
    [0, 0, 1, 1, 1]
    """
    begins = answers <= 0
    hashes = rows[begins]
    order = np.argsort(hashes, kind="stable")
    changes = np.flatnonzero(np.diff(hashes[order])) + 1
    sizes = np.diff(np.concatenate([[0], changes, [len(hashes)]]))
    firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    found = np.empty(len(hashes), np.int32)
    found[order] = np.arange(len(hashes)) - firsts
    return found[np.cumsum(begins) - 1]
