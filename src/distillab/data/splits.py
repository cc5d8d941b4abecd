"""Training and held-out examples: by file, by a seeded fraction, or by a column."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.data import DataConfig, SourceConfig
from distillab.data.examples import Example
from distillab.data.row_examples import ReadRows, examples_of, first_of
from distillab.data.shapes import Shape
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
        prompts_in_both: prompts of the held-out part that stand in the training part too.
        skipped: rows of both parts that could not be read and were left out, each with its place and the reason.
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
        """What a reader of the run has to know of its rows, one line each."""
        notes = []
        if self.skipped:
            some = "; ".join(first_of(self.skipped))
            notes.append(f"{len(self.skipped)} rows that cannot be read are left out (data.on_bad_row: skip): {some}")
        if self.prompts_in_both:
            notes.append(f"{self.prompts_in_both} prompts of the held-out part stand in the training part too")
        return tuple(notes)


def load_examples(config: DataConfig) -> Splits:
    """Read the rows that a recipe names and split them.

    A fraction is taken by a seeded hash: the same rows in any order of the file, and all answers to one prompt on one
    side.

    Raises:
        DataError: unreadable source or rows; an empty side; parts of different kinds.
    """
    held = config.held_out
    name = config.train.path if config.train.split is None else f"{config.train.path}, {config.train.split}"
    rows, broken = _rows(config, config.train)
    read = _read(config, config.train, rows, broken)
    if held.column is not None and held.value is not None:
        chosen = _by_column(rows, held.column, held.value)
        train = [example for example in read.examples if example.origin not in chosen]
        held_out = [example for example in read.examples if example.origin in chosen][: held.limit]
        names = (f"{name}, {held.column} ≠ {held.value}", f"{name}, {held.column} = {held.value}")
        return _checked(config, train, held_out, (read, read), names)
    if held.path is not None:
        source = SourceConfig(path=held.path, split=held.split, columns=held.columns, limit=held.limit)
        other = load_source(config, source)
        if other.shape.kind != read.shape.kind:
            raise DataError(
                "Training and held-out rows are of different kinds.",
                facts=[f"{name}: {read.shape}", f"{held.path}: {other.shape}"],
                fix="name the columns of one of them by data.train.columns or data.held_out.columns: {…}",
            )
        names = (name, held.path if held.split is None else f"{held.path}, {held.split}")
        return _checked(config, read.examples, other.examples, (read, other), names)
    if held.fraction is None:
        raise ConfigError("held_out names no way to find its rows.", fix="give path, fraction or column with value")
    taken = _by_fraction(read.examples, held.fraction, held.limit, config.seed, name)
    train = [example for example in read.examples if example.prompt_hash not in taken]
    held_out = [example for example in read.examples if example.prompt_hash in taken]
    return _checked(config, train, held_out, (read, read), (f"{name}, training part", f"{name}, held-out part"))


def load_source(config: DataConfig, source: SourceConfig) -> ReadRows:
    """Read one source by the settings of a recipe.

    Raises:
        DataError: unreadable source or rows.
    """
    return _read(config, source, *_rows(config, source))


def _rows(config: DataConfig, source: SourceConfig) -> tuple[list[Row], list[str]]:
    broken: list[str] = []
    return read_rows(source, skipped=broken if config.on_bad_row == "skip" else None), broken


def _read(config: DataConfig, source: SourceConfig, rows: Sequence[Row], broken: Sequence[str]) -> ReadRows:
    return examples_of(
        rows,
        columns=source.columns,
        prompt_share=config.prompt_share,
        on_bad_row=config.on_bad_row,
        skipped=broken,
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
    train, held_out = (with_learned_answers(part, read[0].shape, config) for part in (train, held_out))
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


def _by_column(rows: Sequence[Row], column: str, value: str) -> set[str]:
    """Origins of the held-out rows."""
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
    """Prompts (`Example.prompt_hash`) of the held-out examples: the lowest hashes, up to the wanted number of rows.

    A prompt is ranked by the lowest content of its rows, so that prompts of one row are ranked by that row.
    """
    groups: dict[str, list[str]] = {}
    for example in examples:
        groups.setdefault(example.prompt_hash, []).append(example.content)
    if len(groups) < 2:
        raise DataError(
            "A held-out fraction needs two different prompts.",
            where=name,
            facts=[f"rows: {len(examples)}"],
            fix="all answers to one prompt stay on one side; give held-out rows of their own by data.held_out.path",
        )
    wanted = max(1, round(len(examples) * fraction))
    if limit is not None:
        wanted = min(wanted, limit)

    def rank(asked: str) -> bytes:
        return hashlib.sha256(f"{seed} {min(groups[asked])}".encode()).digest()

    taken: set[str] = set()
    rows = 0
    for asked in sorted(groups, key=rank)[:-1]:
        if rows >= wanted:
            break
        if taken and rows + len(groups[asked]) > wanted:
            continue
        taken.add(asked)
        rows += len(groups[asked])
    return taken
