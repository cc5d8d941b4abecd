"""Examples in Arrow: the text in record batches that can be memory-mapped, what is counted and compared in columns.

A table is a sequence of `Example`; each is made when it is read. Slices and selections share the text.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distillab.data.examples import Example, Kind, Message, conversation_example, pair_example

BATCH_ROWS = 1024
"""Examples in a record batch; the last one can have fewer."""

ENTRY = np.dtype(
    [
        ("row", "<u8"),  # content hash of the row
        ("occurrence", "<i4"),  # among equal rows
        ("answer", "<i4"),  # number among the answers of the row; -1: it has one
        ("place", "<i4"),  # number of the text before `number` in its origin
        ("number", "<i8"),
        ("content", "<u8"),  # Example.content
        ("prompt", "<u8"),  # Example.prompt_hash
        ("held_out", "?"),  # a column names it as held out
    ]
)
"""What is known of an example without its text. Hashes are the numbers that their hexadecimal digits write."""

_KEPT_BYTES = 1 << 26

Indexes = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_TEXT = pa.large_string()
_TURN = ("role", "content", "supervised", "tool_calls", "name", "call_id")
_TURNS = pa.large_list(pa.struct([(name, pa.bool_() if name == "supervised" else _TEXT) for name in _TURN]))
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "pair": ("instruction", "context", "answer"),
    "text": ("prompt", "answer"),
    "messages": ("messages", "tools"),
}


def schema_of(kind: Kind, *, beside: bool) -> pa.Schema:
    """Return the columns of the text of examples.

    Args:
        beside: there is a column with `Example.beside`, as JSON.
    """
    names = (*_FIELDS[kind], *(["beside"] if beside else []))
    return pa.schema([(name, _TURNS if name == "messages" else _TEXT) for name in names])


def text_batch(examples: Sequence[Example], schema: pa.Schema) -> pa.RecordBatch:
    """Return the text of examples."""
    columns: dict[str, list[Any]] = {name: [getattr(example, name) for example in examples] for name in schema.names}
    if "messages" in columns:
        columns["messages"] = [
            [tuple(getattr(turn, name) for name in _TURN) for turn in turns] for turns in columns["messages"]
        ]
    if "beside" in columns:
        columns["beside"] = [json.dumps(kept, default=repr) for kept in columns["beside"]]
    return pa.record_batch(
        [pa.array(values, type=schema.field(name).type) for name, values in columns.items()], schema=schema
    )


class TextFile:
    """An Arrow file with the text of examples; all record batches are full except the last.

    Pages of a mapped file that were read are given back to the system from time to time, so that reading all rows does
    not make the process as large as the file.
    """

    def __init__(self, content: Path | bytes, rows: int) -> None:
        self.rows = rows
        self._mapped: mmap.mmap | None = None
        if isinstance(content, Path):
            with content.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.py_buffer(content if self._mapped is None else self._mapped))
        self._read_bytes = 0

    def batch(self, number: int) -> pa.RecordBatch:
        """Return a record batch."""
        batch = self._reader.get_batch(number)
        self._read_bytes += batch.nbytes
        if self._mapped is not None and self._read_bytes > _KEPT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = 0
        return batch


class Texts:
    """The record batches of one or more files, numbered as one."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        self.files = tuple(files)
        self._starts = np.cumsum([0, *(file.rows for file in files)])
        self._last: tuple[int, int, pa.RecordBatch] | None = None

    def read(self, places: Indexes) -> Iterator[list[tuple[Any, ...]]]:
        """Read the fields of examples at these places, in their order, in parts."""
        files = np.searchsorted(self._starts, places, side="right") - 1
        within = places - self._starts[files]
        batches = within // BATCH_ROWS
        changes = np.flatnonzero((np.diff(files) != 0) | (np.diff(batches) != 0)) + 1
        for part in np.split(np.arange(len(places)), changes):
            if len(part):
                batch = self._batch(int(files[part[0]]), int(batches[part[0]]))
                taken = batch.take(pa.array(within[part] % BATCH_ROWS))
                yield list(zip(*(column.to_pylist() for column in taken.columns), strict=True))

    def _batch(self, file: int, number: int) -> pa.RecordBatch:
        last = self._last
        if last is None or last[:2] != (file, number):
            last = self._last = (file, number, self.files[file].batch(number))
        return last[2]


@dataclass(frozen=True)
class TableFacts:
    """What all examples of a table share.

    Attributes:
        kind: `Example.kind`.
        settings: a fingerprint of the settings by which rows became examples.
        places: texts before the number in an example's origin.
        last_answer_alone: only the last answer of a conversation is trained on.
        templates: `Example.template` of the examples of each place; empty: none has one.
    """

    kind: Kind
    settings: str
    places: tuple[str, ...]
    last_answer_alone: bool = False
    templates: tuple[str, ...] = ()


class ExampleTable(Sequence[Example]):
    """Examples whose text is in Arrow.

    Args:
        texts: the text of all examples.
        entries: (N,) of the dtype `ENTRY`, of all examples.
        facts: what they share.
        chosen: (n,) places of this table's examples among them; None: all.
    """

    def __init__(
        self, texts: Texts, entries: npt.NDArray[Any], facts: TableFacts, chosen: Indexes | None = None
    ) -> None:
        self.texts, self.entries, self.facts = texts, entries, facts
        self.chosen = np.arange(len(entries)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> ExampleTable: ...

    def __getitem__(self, place: int | slice) -> Example | ExampleTable:
        if isinstance(place, slice):
            return self._at(self.chosen[place])
        return next(self._made(self.chosen[[place]]))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self._made(self.chosen[start : start + BATCH_ROWS])

    def take(self, places: Sequence[int] | npt.NDArray[Any]) -> ExampleTable:
        """Return the examples at these places, or where a mask is true."""
        return self._at(self.chosen[np.asarray(places)] if len(places) else self.chosen[:0])

    def with_last_answer_alone(self) -> ExampleTable:
        """Return the conversations with only their last answers trained on."""
        return self._with(last_answer_alone=True)

    def with_template(self, template: str) -> ExampleTable:
        """Return the examples with a template of their own."""
        return self._with(templates=(template,) * len(self.facts.places))

    @property
    def contents(self) -> Hashes:
        """(n,) `Example.content` of each."""
        return self._column("content")

    @property
    def prompt_hashes(self) -> Hashes:
        """(n,) `Example.prompt_hash` of each."""
        return self._column("prompt")

    @property
    def rows_fingerprint(self) -> str:
        """A fingerprint of these examples in this order: their rows, and how the rows are read. Paths do not count."""
        digest = hashlib.sha256(f"{self.facts.settings} {self.facts.last_answer_alone}".encode())
        for name in ("row", "occurrence", "answer"):
            digest.update(self._column(name).tobytes())
        if any(self.facts.templates):
            digest.update(repr(self.facts.templates).encode() + self._column("place").tobytes())
        return digest.hexdigest()[:32]

    def _column(self, name: str) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.entries[name][self.chosen])

    def _with(self, **changes: Any) -> ExampleTable:
        return ExampleTable(self.texts, self.entries, replace(self.facts, **changes), self.chosen)

    def _at(self, chosen: Indexes) -> ExampleTable:
        return ExampleTable(self.texts, self.entries, self.facts, chosen)

    def _made(self, chosen: Indexes) -> Iterator[Example]:
        known = iter(self.entries[chosen].tolist())
        for part in self.texts.read(chosen):
            for fields in part:
                row, occurrence, answer, before, number, *_ = next(known)
                key = f"{row:016x}-{occurrence}" + (f".{answer}" if answer >= 0 else "")
                made = self._example(key, f"{self.facts.places[before]}{number}", fields)
                own = self.facts.templates
                yield replace(made, template=own[before]) if own and own[before] else made

    def _example(self, key: str, origin: str, fields: tuple[Any, ...]) -> Example:
        known = dict(zip(_FIELDS[self.facts.kind], fields, strict=False))
        if self.facts.kind == "pair":
            made = pair_example(key, origin, **known)
        elif self.facts.kind == "text":
            made = Example(key, origin, "text", **known)
        else:
            turns = tuple(Message(**turn) for turn in known["messages"])
            made = conversation_example(key, origin, turns, tools=known["tools"])
            made = made.with_last_answer_alone() if self.facts.last_answer_alone else made
        return made if len(fields) == len(known) else replace(made, beside=json.loads(fields[-1]))


def content_sha256(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of the content hashes of examples, one a line."""
    if isinstance(examples, ExampleTable):
        digits = np.frombuffer(examples.contents.astype(">u8").tobytes().hex().encode(), np.uint8).reshape(-1, 16)
        text = np.insert(digits, 16, ord("\n"), axis=1).tobytes()[:-1]
    else:
        text = "\n".join(example.content for example in examples).encode()
    return hashlib.sha256(text).hexdigest()
