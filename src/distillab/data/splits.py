"""Training and held-out examples: by file, by a seeded fraction, or by a column."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.data import DataConfig, SourceConfig
from distillab.data.examples import Example
from distillab.data.shapes import Shape, recognise, to_examples
from distillab.data.sources import Row, read_rows
from distillab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Splits:
    """The two parts of a data set.

    Attributes:
        train, held_out: examples in the order of their source.
        shape: how the training rows were read.
        held_out_shape: how the held-out rows were read; of the same kind.
        sources: the two names, for counts and messages.
        overlap: held-out examples whose prompt and answer stand in the training part too.
    """

    train: list[Example]
    held_out: list[Example]
    shape: Shape
    held_out_shape: Shape
    sources: tuple[str, str]
    overlap: int


def load_examples(config: DataConfig) -> Splits:
    """Read the rows that a recipe names and split them.

    A fraction is taken by a seeded hash of prompt and answer: the same rows in any order of the file,
    and equal examples on one side.

    Raises:
        DataError: unreadable source or rows; an empty side; parts of different kinds.
    """
    held = config.held_out
    rows = read_rows(config.train)
    shape = recognise(rows, config.train.columns)
    name = config.train.path if config.train.split is None else f"{config.train.path}, {config.train.split}"
    held_shape = shape
    if held.path is not None:
        source = SourceConfig(path=held.path, split=held.split, columns=held.columns, limit=held.limit)
        held_rows = read_rows(source)
        held_shape = recognise(held_rows, held.columns)
        if held_shape.kind != shape.kind:
            raise DataError(
                "Training and held-out rows are of different kinds.",
                facts=[f"{name}: {shape}", f"{held.path}: {held_shape}"],
                fix="name the columns of one of them by columns: {…}",
            )
        train = to_examples(rows, columns=config.train.columns, prompt_share=config.prompt_share)
        held_out = to_examples(held_rows, columns=held.columns, prompt_share=config.prompt_share)
        names = (name, held.path if held.split is None else f"{held.path}, {held.split}")
    elif held.column is not None and held.value is not None:
        chosen = _by_column(rows, held.column, held.value)
        examples = to_examples(rows, columns=config.train.columns, prompt_share=config.prompt_share)
        train = [example for example, taken in zip(examples, chosen, strict=True) if not taken]
        held_out = [example for example, taken in zip(examples, chosen, strict=True) if taken][: held.limit]
        names = (f"{name}, {held.column} ≠ {held.value}", f"{name}, {held.column} = {held.value}")
    elif held.fraction is not None:
        examples = to_examples(rows, columns=config.train.columns, prompt_share=config.prompt_share)
        taken = _by_fraction(examples, held.fraction, held.limit, config.seed, name)
        train = [example for example in examples if example.content not in taken]
        held_out = [example for example in examples if example.content in taken]
        names = (f"{name}, training part", f"{name}, held-out part")
    else:
        raise ConfigError("held_out names no way to find its rows.", fix="give path, fraction or column with value")
    for part, part_name in zip((train, held_out), names, strict=True):
        if not part:
            raise DataError("One part of the data has no rows.", where=part_name)
    train, held_out = (with_learned_answers(part, shape, config) for part in (train, held_out))
    known = {example.content for example in train}
    overlap = sum(example.content in known for example in held_out)
    return Splits(train, held_out, shape, held_shape, names, overlap)


def with_learned_answers(examples: list[Example], shape: Shape, config: DataConfig) -> list[Example]:
    """The examples with those answers learned that the settings say.

    Raises:
        ConfigError: the last answers alone of rows that are no conversations.
    """
    if config.learned_answers == "all":
        return examples
    if shape.kind != "messages":
        raise ConfigError(
            "data.learned_answers: last is of conversations; other rows have one answer.",
            where=config.train.path,
            facts=[f"rows: {shape}"],
            fix="leave learned_answers out",
        )
    return [example.with_last_answer_alone() for example in examples]


def _by_column(rows: Sequence[Row], column: str, value: str) -> list[bool]:
    lacking = [row.origin for row in rows if column not in row.values]
    if lacking:
        raise DataError(
            f'{len(lacking)} of {len(rows)} rows have no column "{column}", which names the split.',
            facts=lacking[:5],
            where=rows[0].origin,
        )
    chosen = [str(row.values[column]) == value for row in rows]
    if not any(chosen):
        values = sorted({str(row.values[column]) for row in rows})
        raise DataError(
            f'No row has {column} = "{value}".',
            where=rows[0].origin,
            facts=[f"values: {', '.join(values[:10])}" + (" …" if len(values) > 10 else "")],
        )
    return chosen


def _by_fraction(examples: Sequence[Example], fraction: float, limit: int | None, seed: int, name: str) -> set[str]:
    """Contents of the held-out examples: the lowest seeded hashes, up to the wanted number of rows."""
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.content] = counts.get(example.content, 0) + 1
    if len(counts) < 2:
        raise DataError("A held-out fraction needs two different rows.", where=name, facts=[f"rows: {len(examples)}"])
    wanted = max(1, round(len(examples) * fraction))
    if limit is not None:
        wanted = min(wanted, limit)
    ranked = sorted(counts, key=lambda content: hashlib.sha256(f"{seed} {content}".encode()).digest())
    taken: set[str] = set()
    rows = 0
    for content in ranked[:-1]:
        if rows >= wanted:
            break
        if taken and rows + counts[content] > wanted:
            continue
        taken.add(content)
        rows += counts[content]
    return taken
