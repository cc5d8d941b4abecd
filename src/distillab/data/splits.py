"""Load and split examples into training and held-out: by file, by a seeded fraction, or by a column."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.data import DataConfig, SourceConfig
from distillab.data.examples import Example
from distillab.data.row_examples import ReadRows, examples_of
from distillab.data.shapes import Shape
from distillab.data.sources import Row, read_rows
from distillab.data.textfiles import first_of
from distillab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Splits:
    """The training and the held-out part of a data set.

    Attributes:
        train, held_out: examples in the order of their source.
        shape: how the training rows were read.
        held_out_shape: how the held-out rows were read; of the same kind.
        sources: names of the parts, for counts and messages.
        overlap: held-out examples whose prompt and answer are in the training part too.
        prompts_in_both: held-out prompts that are in the training part too.
        skipped: rows of both parts that could not be read, each with its place and the reason.
    """

    train: list[Example]
    held_out: list[Example]
    shape: Shape
    held_out_shape: Shape
    sources: tuple[str, str]
    overlap: int
    prompts_in_both: int
    skipped: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on skipped rows and repeated prompts, one line each."""
        notes = []
        if self.skipped:
            some = "; ".join(first_of(self.skipped))
            notes.append(f"{len(self.skipped)} rows cannot be read and are skipped (data.on_bad_row: skip): {some}")
        if self.prompts_in_both:
            notes.append(f"{self.prompts_in_both} held-out prompts are in the training part too")
        return tuple(notes)


def load_examples(config: DataConfig, *, beside: Sequence[str] = ()) -> Splits:
    """Read the rows that a recipe names and split them.

    A fraction is taken by a seeded hash: the same rows in any order of the file, and all answers to one prompt in the
    same part.

    Args:
        beside: further columns to keep of each row, see `Example.beside`.
    Raises:
        DataError: unreadable source or rows; an empty part; parts of different kinds.
    """
    held = config.held_out
    name = config.train.path if config.train.split is None else f"{config.train.path}, {config.train.split}"
    rows, broken = _rows(config, config.train)
    read = _read(config, config.train, rows, broken, beside)
    if held.column is not None and held.value is not None:
        chosen = _by_column(rows, held.column, held.value)
        train = [example for example in read.examples if example.origin not in chosen]
        held_out = [example for example in read.examples if example.origin in chosen][: held.limit]
        names = (f"{name}, {held.column} ≠ {held.value}", f"{name}, {held.column} = {held.value}")
        return _checked(config, train, held_out, (read, read), names)
    if held.path is not None:
        source = SourceConfig(path=held.path, split=held.split, columns=held.columns, limit=held.limit)
        other = load_source(config, source, beside=beside)
        if other.shape.kind != read.shape.kind:
            raise DataError(
                "Training and held-out rows are of different kinds.",
                facts=[f"{name}: {read.shape}", f"{held.path}: {other.shape}"],
                fix="name the columns: data.train.columns or data.held_out.columns: {…}",
            )
        names = (name, held.path if held.split is None else f"{held.path}, {held.split}")
        return _checked(config, read.examples, other.examples, (read, other), names)
    if held.fraction is None:
        raise ConfigError("held_out does not name its rows.", fix="give path, fraction, or column with value")
    taken = _by_fraction(read.examples, held.fraction, held.limit, config.seed, name)
    train = [example for example in read.examples if example.prompt_hash not in taken]
    held_out = [example for example in read.examples if example.prompt_hash in taken]
    return _checked(config, train, held_out, (read, read), (f"{name}, training part", f"{name}, held-out part"))


def load_source(config: DataConfig, source: SourceConfig, *, beside: Sequence[str] = ()) -> ReadRows:
    """Read one source with the settings of a recipe.

    Raises:
        DataError: unreadable source or rows.
    """
    return _read(config, source, *_rows(config, source), beside)


def _rows(config: DataConfig, source: SourceConfig) -> tuple[list[Row], list[str]]:
    broken: list[str] = []
    return read_rows(source, skipped=broken if config.on_bad_row == "skip" else None), broken


def _read(
    config: DataConfig, source: SourceConfig, rows: Sequence[Row], broken: Sequence[str], beside: Sequence[str]
) -> ReadRows:
    return examples_of(
        rows,
        columns=source.columns,
        prompt_share=config.prompt_share,
        on_bad_row=config.on_bad_row,
        skipped=broken,
        beside=beside,
    )


def _checked(
    config: DataConfig,
    train: list[Example],
    held_out: list[Example],
    read: tuple[ReadRows, ReadRows],
    names: tuple[str, str],
) -> Splits:
    for part, part_name in zip((train, held_out), names, strict=True):
        if not part:
            raise DataError("One part of the data has no rows.", where=part_name)
    train, held_out = (with_supervised_answers(part, read[0].shape, config) for part in (train, held_out))
    known, prompts = {example.content for example in train}, {example.prompt_hash for example in train}
    return Splits(
        train=train,
        held_out=held_out,
        shape=read[0].shape,
        held_out_shape=read[1].shape,
        sources=names,
        overlap=sum(example.content in known for example in held_out),
        prompts_in_both=len({example.prompt_hash for example in held_out} & prompts),
        skipped=tuple(dict.fromkeys((*read[0].skipped, *read[1].skipped))),
    )


def with_supervised_answers(examples: list[Example], shape: Shape, config: DataConfig) -> list[Example]:
    """Apply `data.supervised_answers` to the examples.

    Raises:
        ConfigError: "last", but the rows are not conversations.
    """
    if config.supervised_answers == "all":
        return examples
    if shape.kind != "messages":
        raise ConfigError(
            "data.supervised_answers: last is for conversations only; other rows have one answer.",
            where=config.train.path,
            facts=[f"rows: {shape}"],
            fix="remove supervised_answers",
        )
    return [example.with_last_answer_alone() for example in examples]


def _by_column(rows: Sequence[Row], column: str, value: str) -> set[str]:
    """Return the origins of the held-out rows."""
    lacking = [row.origin for row in rows if column not in row.values]
    if lacking:
        raise DataError(
            f'{len(lacking)} of {len(rows)} rows have no column "{column}", which names the split.',
            facts=lacking[:5],
            where=rows[0].origin,
        )
    chosen = {row.origin for row in rows if str(row.values[column]) == value}
    if not chosen:
        values = sorted({str(row.values[column]) for row in rows})
        raise DataError(
            f'No row has {column} = "{value}".',
            where=rows[0].origin,
            facts=[f"values: {', '.join(values[:10])}" + (" …" if len(values) > 10 else "")],
        )
    return chosen


def _by_fraction(examples: Sequence[Example], fraction: float, limit: int | None, seed: int, name: str) -> set[str]:
    """Return the prompt hashes of the held-out examples: the lowest ranks, up to the wanted number of rows.

    A prompt is ranked by the lowest content hash of its rows.
    """
    groups: dict[str, list[str]] = {}
    for example in examples:
        groups.setdefault(example.prompt_hash, []).append(example.content)
    if len(groups) < 2:
        raise DataError(
            "A held-out fraction needs two different prompts.",
            where=name,
            facts=[f"rows: {len(examples)}"],
            fix="all answers to one prompt stay in one part; give separate held-out rows by data.held_out.path",
        )
    wanted = max(1, round(len(examples) * fraction))
    if limit is not None:
        wanted = min(wanted, limit)

    def rank(prompt: str) -> bytes:
        return hashlib.sha256(f"{seed} {min(groups[prompt])}".encode()).digest()

    taken: set[str] = set()
    rows = 0
    for prompt in sorted(groups, key=rank)[:-1]:
        if rows >= wanted:
            break
        if taken and rows + len(groups[prompt]) > wanted:
            continue
        taken.add(prompt)
        rows += len(groups[prompt])
    return taken
