"""Which columns hold the prompt and the answer: recognised by name, or named by the recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distillab.config.data import ColumnsConfig
from distillab.data.examples import Example, Kind, Message, Role, conversation_example, pair_example, text_example
from distillab.data.sources import Row
from distillab.errors import ConfigError, DataError, near_names

_SHOWN = 5
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Shape:
    """How the columns of a source are read.

    `columns` are used in the order prompt, answer (pair), text, or messages; `optional` may be absent
    or null; `ignored` are the other columns of the source.
    """

    kind: Kind
    columns: tuple[str, ...]
    optional: str | None = None
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = list(self.columns)
        if self.optional is not None:
            names.insert(1, self.optional)
        ignored = f", ignoring {', '.join(self.ignored)}" if self.ignored else ""
        return f"{self.kind} ({'/'.join(names)}{ignored})"


# The first shape whose columns exist wins. `text` is last, because many files carry the rendered
# text beside its parts; instruction/output stands after the prompt shapes only because those need
# a column that instruction files do not have (Dolly's `prompt` repeats its instruction, rendered).
KNOWN_SHAPES: tuple[Shape, ...] = (
    Shape("messages", ("messages",)),
    Shape("pair", ("prompt", "completion")),
    Shape("pair", ("prompt", "answer")),
    Shape("pair", ("question", "answer")),
    Shape("pair", ("instruction", "output"), optional="input"),
    Shape("text", ("text",)),
)


def recognise(rows: Sequence[Row], columns: ColumnsConfig | None) -> Shape:
    """Find how the rows are to be read, from the names of their columns.

    The order is: messages; prompt/completion; prompt/answer; question/answer;
    instruction/(input)/output; text. Explicit columns come before all of them.

    Raises:
        DataError: no known shape, or a named column that no row has.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    if columns is not None:
        wanted = _explicit(columns)
        for name in wanted.columns:
            if name not in names:
                raise DataError(
                    f'There is no column "{name}".',
                    where=_source(rows),
                    facts=[f"columns: {', '.join(names)}"],
                    fix=near_names(name, names),
                )
        return _with_ignored(wanted, names)
    for shape in KNOWN_SHAPES:
        if all(name in names for name in shape.columns):
            return _with_ignored(shape, names)
    known = "; ".join("/".join(shape.columns) for shape in KNOWN_SHAPES)
    facts = [f"columns: {', '.join(names)}", f"known shapes: {known}"]
    facts.extend(_nested(rows[0]))
    raise DataError(
        "The columns are not those of a known shape.",
        where=_source(rows),
        facts=facts,
        fix="name them: columns: {prompt: …, answer: …} or columns: {text: …}; both must hold text",
    )


def to_examples(rows: Sequence[Row], *, columns: ColumnsConfig | None, prompt_share: float) -> list[Example]:
    """Read rows into examples, by the shape that `recognise` finds.

    Prompts and texts must be text. An answer may be an integer or a float and is then written as JSON
    writes it (72 -> "72"); anything else is an error. Empty answers are kept here: encoding drops and
    counts them. Only `input` may be null or absent.

    Args:
        rows: at least one.
        columns: explicit columns, or None to recognise the shape.
        prompt_share: plain text only: share of the words that is the prompt (of the characters, in a
            script without spaces), 0 < share < 1.
    Raises:
        DataError: unknown shape; missing columns, nulls, values that are no text, empty prompts,
            conversations that are not well formed: all counted, the first five named.
    """
    shape = recognise(rows, columns)
    examples: list[Example] = []
    problems: list[str] = []
    for row in rows:
        try:
            examples.append(_example(row, shape, prompt_share))
        except _Unusable as problem:
            problems.append(f"{row.origin}: {problem}")
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"… and {len(problems) - _SHOWN} more")
        raise DataError(
            f"{len(problems)} of {len(rows)} rows cannot be read as {shape}.",
            where=_source(rows),
            facts=shown,
            fix="repair or remove these rows, or name other columns by columns: {…}",
        )
    return examples


class _Unusable(Exception):
    """A fact about one row."""


def _example(row: Row, shape: Shape, prompt_share: float) -> Example:
    if shape.kind == "text":
        text = _text(row, shape.columns[0])
        return text_example(row.key, row.origin, text=text, prompt_share=prompt_share)
    if shape.kind == "messages":
        return conversation_example(row.key, row.origin, _messages(row, shape.columns[0]))
    instruction, answer = _text(row, shape.columns[0]), _answer(row, shape.columns[1])
    context = ""
    if shape.optional is not None and row.values.get(shape.optional) is not None:
        context = _text(row, shape.optional)
    example = pair_example(row.key, row.origin, instruction=instruction, context=context, answer=answer)
    if not example.prompt.strip():
        raise _Unusable(f'"{shape.columns[0]}" is empty')
    return example


def _present(row: Row, column: str) -> Any:
    if column not in row.values:
        raise _Unusable(f'has no "{column}"')
    value = row.values[column]
    if value is None:
        raise _Unusable(f'"{column}" is null')
    return value


def _text(row: Row, column: str) -> str:
    return _checked_text(_present(row, column), f'"{column}"')


def _answer(row: Row, column: str) -> str:
    value = _present(row, column)
    # bool is an int in Python, and True is no answer that a model should write.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _checked_text(value, f'"{column}"')


def _checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"{name} is a {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable(f"{name} holds half a surrogate pair at character {error.start}") from error
    return value


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = _present(row, column)
    if not isinstance(value, list) or not value:
        raise _Unusable(f'"{column}" is not a list of turns')
    turns = tuple(_turn(item, number) for number, item in enumerate(value, start=1))
    spoken = turns[1:] if turns[0].role == "system" else turns
    for number, turn in enumerate(spoken):
        expected = "assistant" if number % 2 else "user"
        if turn.role != expected:
            place = number + 1 + len(turns) - len(spoken)
            raise _Unusable(f"turn {place} is {turn.role}, where {expected} is expected")
    if turns[-1].role != "assistant":
        raise _Unusable(f"ends with a {turns[-1].role} turn; the last turn must be the assistant's")
    return turns


def _turn(item: Any, number: int) -> Message:
    if not isinstance(item, dict) or "role" not in item or "content" not in item:
        keys = ", ".join(item) if isinstance(item, dict) else type(item).__name__
        raise _Unusable(f"turn {number} has no role and content (it has: {keys})")
    for role in _ROLES:
        if item["role"] == role:
            # Dropping tool calls or the like would train on half a conversation.
            extra = [name for name, value in item.items() if name not in ("role", "content") and value is not None]
            if extra:
                raise _Unusable(f"turn {number} has more than role and content: {', '.join(extra)}")
            return Message(role, _checked_text(item["content"], f"turn {number}"))
    raise _Unusable(f'turn {number} has the role "{item["role"]}"; roles: {", ".join(_ROLES)}')


def _explicit(columns: ColumnsConfig) -> Shape:
    if columns.text is not None:
        return Shape("text", (columns.text,))
    if columns.prompt is None or columns.answer is None:
        raise ConfigError("Columns name both prompt and answer, or text alone.", facts=[f"got: {columns}"])
    return Shape("pair", (columns.prompt, columns.answer))


def _with_ignored(shape: Shape, names: Sequence[str]) -> Shape:
    used = {*shape.columns, shape.optional}
    optional = shape.optional if shape.optional in names else None
    return Shape(shape.kind, shape.columns, optional, tuple(name for name in names if name not in used))


def _nested(row: Row) -> list[str]:
    facts = []
    for name, value in row.values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inner = ", ".join(value[0])
            facts.append(f'column "{name}" is a list of objects ({inner}): write one row for each of them first')
    return facts


def _source(rows: Sequence[Row]) -> str:
    return re.sub(r"(:\d+|, (row|item) \d+)$", "", rows[0].origin)
