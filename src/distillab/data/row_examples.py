"""Turn rows into examples, and report rows that cannot be read."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distillab.config.data import ColumnsConfig
from distillab.data.examples import Example, Message, conversation_example, pair_example, text_example
from distillab.data.shapes import COLUMNS_FIX, Shape, columns_of, recognise, source_of
from distillab.data.sources import Row
from distillab.data.textfiles import first_of
from distillab.data.turns import (
    Unusable,
    check_order,
    checked_text,
    given,
    holds_turns,
    is_blank,
    read_tools,
    read_turns,
)
from distillab.errors import DataError


@dataclass(frozen=True)
class ReadRows:
    """The examples of rows in memory.

    Attributes:
        examples: in the order of the rows; a row with several answers gives one for each.
        shape: how the rows were read.
    """

    examples: list[Example]
    shape: Shape


def to_examples(rows: Sequence[Row], *, columns: ColumnsConfig | None, prompt_share: float) -> list[Example]:
    """Turn rows into examples as `examples_of` does; every row must be readable."""
    return examples_of(rows, columns=columns, prompt_share=prompt_share).examples


def examples_of(
    rows: Sequence[Row],
    *,
    columns: ColumnsConfig | None,
    prompt_share: float,
    beside: Sequence[str] = (),
) -> ReadRows:
    """Turn rows into examples, by the shape that `recognise` finds.

    Prompts must be text; for answers see `written`. Empty answers are kept here: encoding drops and counts them. A
    context can be null or absent.

    Args:
        rows: at least one.
        columns: explicit columns, or None to recognise the shape.
        prompt_share: plain text only: share of the words (of the characters in a script without spaces) that is the
            prompt, 0 < share < 1.
        beside: further columns, kept as `Example.beside`; None where a row lacks one.
    Raises:
        DataError: unknown shape; missing columns, nulls, values that are not text, empty prompts, malformed
            conversations: all counted, the first five named.
    """
    shape = without(recognise(columns_of(rows), columns), beside)
    problems: list[str] = []
    examples = list(made_examples(rows, shape, prompt_share=prompt_share, beside=beside, problems=problems))
    if problems:
        raise unreadable(problems, len(rows), shape, where=source_of(rows[0].origin))
    return ReadRows(examples, shape)


def without(shape: Shape, beside: Sequence[str]) -> Shape:
    """Return the shape, with the columns that are kept beside not among the ignored ones."""
    return replace(shape, ignored=tuple(name for name in shape.ignored if name not in beside))


def made_examples(
    rows: Iterable[Row], shape: Shape, *, prompt_share: float, beside: Sequence[str], problems: list[str]
) -> Iterator[Example]:
    """Turn rows into examples one after the other; see `examples_of`.

    Args:
        problems: list to which rows that cannot be read are added, each with its place and the reason.
    """
    for row in rows:
        try:
            kept = {name: _value(row, name) for name in beside}
            made = _examples(row, shape, prompt_share)
        except Unusable as problem:
            problems.append(f"{row.origin}: {problem}")
        else:
            yield from (replace(example, beside=kept) for example in made) if kept else made


def unreadable(problems: Sequence[str], rows: int, shape: Shape, *, where: str) -> DataError:
    """Return the error of rows that cannot be read."""
    return DataError(
        f"{len(problems)} of {rows} rows cannot be read as {shape}.",
        where=where,
        facts=first_of(problems),
        fix=f"write data.on_bad_row: skip to skip and count them; or name other columns: {COLUMNS_FIX}",
    )


def written(value: Any, name: str) -> str:
    """Return an answer as text.

    Numbers get the shortest digits that give the same number in the dtype of their column (72 -> "72", a float32 0.1
    -> "0.1"), decimals all digits, dates and times ISO 8601. NaN, which tables use for a missing value, is an empty
    answer.

    Raises:
        Unusable: a bool, infinity, bytes or anything else without one text form.
    """
    # bool is an int in Python, but True is not an answer in text
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | decimal.Decimal):
        if math.isnan(value):
            return ""
        if math.isinf(value):
            raise Unusable(f"{name} is infinite")
        return format(value, "f") if isinstance(value, decimal.Decimal) else str(value)
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    return checked_text(value, name)


def _examples(row: Row, shape: Shape, prompt_share: float) -> list[Example]:
    if shape.kind == "text":
        text = checked_text(_present(row, shape.columns[0]), f'"{shape.columns[0]}"')
        return [text_example(row.key, row.origin, text=text, prompt_share=prompt_share)]
    if len(shape.columns) == 1:
        turns = read_turns(_present(row, shape.columns[0]), shape.columns[0])
        if shape.columns[0].lower() == "chosen":
            # Preference data: both answers continue the same turns, and only the last turn is compared.
            turns = (*given(turns[:-1]), turns[-1])
        return [_conversation(row, shape, row.key, turns)]
    prompt, context = _present(row, shape.columns[0]), _context(row, shape)
    answers = _answers(row, shape.columns[1], context)
    keys = [row.key] if len(answers) == 1 else [f"{row.key}.{number}" for number in range(len(answers))]
    if shape.kind == "messages":
        return [
            _conversation(row, shape, key, _asked_and_answered(row, shape, prompt, context, answer))
            for key, (context, answer) in zip(keys, answers, strict=True)
        ]
    instruction, column = checked_text(prompt, f'"{shape.columns[0]}"'), f'"{shape.columns[1]}"'
    made = [
        pair_example(key, row.origin, instruction=instruction, context=context, answer=written(answer, column))
        for key, (context, answer) in zip(keys, answers, strict=True)
    ]
    _check_prompts([example.prompt for example in made], shape)
    return made


def _answers(row: Row, column: str, context: str) -> list[tuple[str, Any]]:
    """Return the answers of a row, each with its context."""
    value = _present(row, column)
    if not isinstance(value, list) or holds_turns(value):
        if isinstance(value, dict):
            raise Unusable(
                f'"{column}" holds {", ".join(value)}; name one, as answer: {column}.{next(iter(value), "…")}'
            )
        return [(context, value)]
    if not value:
        return [(context, "")]
    if all(isinstance(item, dict) and {"input", "output"} <= item.keys() for item in value):
        name = f'"{column}", input'
        return [
            ("" if is_blank(item["input"]) else checked_text(item["input"], name), item["output"]) for item in value
        ]
    texts = [written(item, f'"{column}", item {number}') for number, item in enumerate(value, start=1)]
    return [(context, text) for text in dict.fromkeys(texts)]


def _asked_and_answered(row: Row, shape: Shape, prompt: Any, context: str, answer: Any) -> tuple[Message, ...]:
    """Make a conversation from a prompt and an answer, each of which is text or turns."""
    names = shape.columns
    if holds_turns(answer):
        turns = read_turns(answer, names[1])
        answered = (*given(turns[:-1]), turns[-1]) if turns[0].role in ("user", "system") else turns
        if answered[0].role != "assistant":
            # The answer's column repeats the prompt (preference data); it must be the same one.
            if not holds_turns(prompt) and prompt not in [turn.content for turn in answered if turn.role == "user"]:
                raise Unusable(f'"{names[1]}" is a conversation, and "{names[0]}" is not in it')
            return answered
    else:
        answered = (Message("assistant", written(answer, f'"{names[1]}"')),)
    if holds_turns(prompt):
        before = given(read_turns(prompt, names[0]))
    else:
        text = pair_example(
            "", "", instruction=checked_text(prompt, f'"{names[0]}"'), context=context, answer=""
        ).prompt
        _check_prompts([text], shape)
        before = (Message("user", text),)
    return (*before, *answered)


def _conversation(row: Row, shape: Shape, key: str, turns: tuple[Message, ...]) -> Example:
    turns = (*_history(row, shape), *turns)
    system = _value(row, shape.system)
    if not is_blank(system):
        if turns[0].role == "system":
            raise Unusable(f'there is a system turn, and "{shape.system}" beside it')
        turns = (Message("system", checked_text(system, f'"{shape.system}"')), *turns)
    check_order(turns)
    return conversation_example(
        key, row.origin, turns, tools="" if shape.tools is None else read_tools(_value(row, shape.tools), shape.tools)
    )


def _history(row: Row, shape: Shape) -> tuple[Message, ...]:
    """Return the earlier turns of Alpaca files, a list of [prompt, answer]; the answers are trained on."""
    value = _value(row, shape.history)
    if is_blank(value):
        return ()
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Unusable(f'"{shape.history}" is not a list of [prompt, answer]')
    turns: list[Message] = []
    for number, (prompt, answer) in enumerate(value, start=1):
        name = f'"{shape.history}", item {number}'
        turns += [Message("user", checked_text(prompt, name)), Message("assistant", checked_text(answer, name))]
    return tuple(turns)


def _context(row: Row, shape: Shape) -> str:
    value = _value(row, shape.context)
    return "" if is_blank(value) else checked_text(value, f'"{shape.context}"')


def _check_prompts(prompts: Sequence[str], shape: Shape) -> None:
    if not all(prompt.strip() for prompt in prompts):
        raise Unusable(f'"{shape.columns[0]}" is empty')


def _present(row: Row, column: str) -> Any:
    value = _value(row, column)
    if value is None:
        if column in row.values or "." in column:
            raise Unusable(f'"{column}" is null')
        raise Unusable(f'has no "{column}"')
    return value


def _value(row: Row, column: str | None) -> Any:
    """Return the value of a column; `a.b` is the key `b` of the objects in column `a`."""
    if column is None or column in row.values:
        return row.values.get(column) if column is not None else None
    value: Any = row.values
    for name in column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
