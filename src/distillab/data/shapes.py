"""Find the columns that hold prompt and answer: recognised by name, or named by the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distillab.config.data import ColumnsConfig
from distillab.data.examples import Kind
from distillab.data.sources import Row
from distillab.data.turns import holds_turns, is_blank
from distillab.errors import DataError, near_names

_SYSTEM = ("system", "system_prompt")
_BESIDE = (*_SYSTEM, "history", "tools")
COLUMNS_FIX = (
    "columns: {prompt: …, answer: …}, columns: {messages: …} or columns: {text: …}, under data.train or data.held_out"
)


@dataclass(frozen=True)
class Shape:
    """The columns of a source, and how they are read.

    `columns` are prompt and answer (pair), or one column of text or of turns. Rows with a prompt and an answer are
    conversations (kind messages) if one of the two holds turns, or if other columns hold a system turn, earlier turns
    or tools. `ignored` are the columns that are not read.
    """

    kind: Kind
    columns: tuple[str, ...]
    context: str | None = None
    system: str | None = None
    history: str | None = None
    tools: str | None = None
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = list(self.columns)
        if self.context is not None:
            names.insert(1, self.context)
        beside = [name for name in (self.system, self.history, self.tools) if name is not None]
        also = f", with {', '.join(beside)}" if beside else ""
        ignored = f", ignoring {', '.join(self.ignored)}" if self.ignored else ""
        return f"{self.kind} ({'/'.join(names)}{also}{ignored})"


@dataclass
class Columns:
    """What the names of columns and some values show about rows; rows are added in batches.

    Attributes:
        names: of all columns, in the order in which they appear.
        filled: columns for a system turn, earlier turns or tools that have a value in any row.
        with_turns: columns that hold turns in any row.
        first: the values of the first row.
        source: the file or data set of the rows, for messages.
    """

    names: dict[str, None] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    with_turns: set[str] = field(default_factory=set)
    first: Mapping[str, Any] | None = None
    source: str = ""

    def add(self, rows: Iterable[Mapping[str, Any]], *, origin: str) -> None:
        """Add the values of rows.

        Args:
            origin: of the first of them.
        """
        for values in rows:
            if self.first is None:
                self.first, self.source = values, source_of(origin)
            for name, value in values.items():
                if name not in self.names:
                    self.names[name] = None
                if type(value) is list and name not in self.with_turns and holds_turns(value):
                    self.with_turns.add(name)
                if name.lower() in _BESIDE and not is_blank(value) and value not in ([], "[]"):
                    self.filled.add(name)


def columns_of(rows: Sequence[Row]) -> Columns:
    """Return what the columns of rows in memory show."""
    columns = Columns()
    columns.add((row.values for row in rows), origin=rows[0].origin)
    return columns


# The first shape whose columns exist wins. `text` is last, because many files carry the rendered text
# beside its parts; instruction/output comes after the prompt shapes, which need a column that
# instruction files do not have (Dolly's `prompt` repeats its instruction, rendered).
KNOWN_SHAPES: tuple[Shape, ...] = (
    Shape("messages", ("messages",)),
    Shape("messages", ("conversations",)),
    Shape("messages", ("conversation",)),
    Shape("pair", ("prompt", "completion")),
    Shape("pair", ("prompt", "answer")),
    Shape("pair", ("prompt", "response")),
    Shape("pair", ("prompt", "chosen")),
    Shape("messages", ("chosen",)),
    Shape("pair", ("question", "answer"), context="context"),
    Shape("pair", ("question", "answers"), context="context"),
    Shape("pair", ("question", "response"), context="context"),
    Shape("pair", ("instruction", "output"), context="input"),
    Shape("pair", ("instruction", "response"), context="context"),
    Shape("pair", ("instruction", "instances")),
    Shape("pair", ("input", "output")),
    Shape("text", ("text",)),
)


def recognise(seen: Columns, columns: ColumnsConfig | None) -> Shape:
    """Find the shape of rows from the names of their columns.

    The order is that of `KNOWN_SHAPES`; case is ignored if no name is equal. Explicit columns come first.

    Raises:
        DataError: no known shape, or a named column that no row has.
    """
    names = list(seen.names)
    if columns is not None:
        return _with_rest(_explicit(columns, seen), seen)
    by_lower = {name.lower(): name for name in reversed(names)} | {name: name for name in names}
    for shape in KNOWN_SHAPES:
        found = tuple(by_lower[name] for name in shape.columns if name in by_lower)
        if len(found) == len(shape.columns):
            filled = {name: by_lower[name] for name in _BESIDE if by_lower.get(name) in seen.filled}
            beside = replace(
                shape,
                columns=found,
                context=None if shape.context is None else by_lower.get(shape.context),
                system=next((filled[name] for name in _SYSTEM if name in filled), None),
                history=filled.get("history"),
                tools=filled.get("tools"),
            )
            return _with_rest(beside if shape.kind != "text" else replace(shape, columns=found), seen)
    known = "; ".join("/".join(shape.columns) for shape in KNOWN_SHAPES)
    facts = [f"columns: {', '.join(names)}", f"known shapes: {known}", *_nested(seen)]
    raise DataError(
        "The columns match no known shape.",
        where=seen.source,
        facts=facts,
        fix=f"name them: {COLUMNS_FIX}",
    )


def source_of(origin: str) -> str:
    """Return the file or data set of a row, for messages."""
    return re.sub(r"(:\d+|, (row|item) \d+)$", "", origin)


def _explicit(columns: ColumnsConfig, seen: Columns) -> Shape:
    names = list(seen.names)
    explicit = (columns.prompt, columns.answer, columns.text, columns.messages)
    used = tuple(name for name in explicit if name is not None)
    for name in (*used, columns.context, columns.system, columns.tools):
        if name is not None and name not in names and name.partition(".")[0] not in names:
            raise DataError(
                f'There is no column "{name}".',
                where=seen.source,
                facts=[f"columns: {', '.join(names)}"],
                fix=near_names(name, names),
            )
    kind: Kind = "text" if columns.text is not None else "pair" if columns.messages is None else "messages"
    return Shape(kind, used, columns.context, columns.system, None, columns.tools)


def _with_rest(shape: Shape, seen: Columns) -> Shape:
    """Return the shape with its ignored columns, and with kind messages if values or other columns hold turns."""
    beside = (shape.system, shape.history, shape.tools)
    if shape.kind == "pair" and (
        any(name is not None for name in beside) or any(name in seen.with_turns for name in shape.columns)
    ):
        shape = replace(shape, kind="messages")
    used = {name.partition(".")[0] for name in (*shape.columns, shape.context, *beside) if name is not None}
    return replace(shape, ignored=tuple(name for name in seen.names if name not in used | {*shape.columns}))


def _nested(seen: Columns) -> list[str]:
    """Describe columns that hold turns or objects, with the setting that reads them."""
    facts = []
    for name, value in (seen.first or {}).items():
        first = value[0] if isinstance(value, list) and value else value
        if holds_turns(value):
            facts.append(f'column "{name}" holds turns: columns: {{messages: {name}}}')
        elif isinstance(first, dict) and first:
            facts.append(f'column "{name}" holds objects ({", ".join(first)}): "{name}.{next(iter(first))}" names one')
    return facts
