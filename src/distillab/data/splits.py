"""Load and split examples into training and held-out: by file, by a seeded fraction, or by a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distillab.config.data import DataConfig, MixedSourceConfig, SourceConfig
from distillab.data.example_table import ExampleTable, Hashes
from distillab.data.mixture import mixed, seeded_order
from distillab.data.row_table import Reading, TableRows, read_table
from distillab.data.shapes import Shape
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
        drawn: of several sources of the training rows: how many rows of each are used, one line each.
    """

    train: ExampleTable
    held_out: ExampleTable
    shape: Shape
    held_out_shape: Shape
    sources: tuple[str, str]
    overlap: int
    prompts_in_both: int
    skipped: tuple[str, ...]
    drawn: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on sources, skipped rows and repeated prompts, one line each."""
        notes = [f"sources of the training rows: {', '.join(self.drawn)}"] if self.drawn else []
        if self.skipped:
            some = "; ".join(first_of(self.skipped))
            notes.append(f"{len(self.skipped)} rows cannot be read and are skipped (data.on_bad_row: skip): {some}")
        if self.prompts_in_both:
            notes.append(f"{self.prompts_in_both} held-out prompts are in the training part too")
        return tuple(notes)


def load_examples(config: DataConfig, *, beside: Sequence[str] = ()) -> Splits:
    """Read the rows that a recipe names and split them; of a stream the held-out rows and the first block.

    A fraction is taken by a seeded hash: the same rows in any order of the file, and all answers to one prompt in the
    same part.

    Args:
        beside: further columns to keep of each row, see `Example.beside`.
    Raises:
        DataError: unreadable source or rows; an empty part; parts of different kinds.
    """
    held = config.held_out
    name = config.train_name
    named = None if held.column is None or held.value is None else (held.column, held.value)
    sources = config.sources
    if config.streaming is not None:
        most = (held.first or 0) + config.streaming.buffer
        sources = (sources[0].model_copy(update={"limit": min(most, sources[0].limit or most)}),)
    every = [load_source(config, source, beside=beside, held_out=named) for source in sources]
    for number, source in enumerate(config.sources):
        if isinstance(source, MixedSourceConfig) and source.template is not None:
            every[number] = replace(every[number], examples=every[number].examples.with_template(source.template))
    weights = [source.weight for source in config.sources if isinstance(source, MixedSourceConfig)]
    read = mixed(config.sources, every, [weight for weight in weights if weight], seed=config.seed)
    if named is not None:
        chosen = read.held_out
        names = (f"{name}, {held.column} ≠ {held.value}", f"{name}, {held.column} = {held.value}")
        return _checked(
            config, read.examples.take(~chosen), read.examples.take(chosen)[: held.limit], (read, read), names
        )
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
    if held.first is not None:
        first = load_source(config, sources[0].model_copy(update={"limit": held.first}), beside=beside)
        if replace(first.shape, ignored=()) != replace(read.shape, ignored=()):
            raise DataError(
                "The first rows have other columns than the rest, and are held out.",
                where=name,
                facts=[f"first {held.first} rows: {first.shape}", f"all: {read.shape}"],
                fix="name the columns: data.train.columns: {…}",
            )
        number = len(first.examples)
        names = (f"{name}, the rest", f"{name}, first {held.first} rows")
        return _checked(config, read.examples[number:], read.examples[:number], (read, read), names)
    if held.fraction is None:
        raise ConfigError("held_out does not name its rows.", fix="give path, fraction, first, or column with value")
    taken = by_fraction(
        read.examples.contents, read.examples.prompt_hashes, held.fraction, held.limit, seed=config.seed, name=name
    )
    names = (f"{name}, training part", f"{name}, held-out part")
    return _checked(config, read.examples.take(~taken), read.examples.take(taken), (read, read), names)


def load_source(
    config: DataConfig, source: SourceConfig, *, beside: Sequence[str] = (), held_out: tuple[str, str] | None = None
) -> TableRows:
    """Read one source with the settings of a recipe.

    Args:
        held_out: a column and its value for held-out rows.
    Raises:
        DataError: unreadable source or rows.
    """
    reading = Reading(config.prompt_share, config.on_bad_row, tuple(beside), held_out, source.columns)
    return read_table(source, reading, stores=config.streaming is None)


def _checked(
    config: DataConfig,
    train: ExampleTable,
    held_out: ExampleTable,
    read: tuple[TableRows, TableRows],
    names: tuple[str, str],
) -> Splits:
    for part, part_name in zip((train, held_out), names, strict=True):
        if not len(part):
            raise DataError("One part of the data has no rows.", where=part_name)
    train, held_out = (with_supervised_answers(part, read[0].shape, config) for part in (train, held_out))
    return Splits(
        train=train,
        held_out=held_out,
        shape=read[0].shape,
        held_out_shape=read[1].shape,
        sources=names,
        overlap=int(_are_in(held_out.contents, train.contents).sum()),
        prompts_in_both=int(_are_in(np.unique(held_out.prompt_hashes), train.prompt_hashes).sum()),
        skipped=tuple(dict.fromkeys((*read[0].skipped, *read[1].skipped))),
        drawn=read[0].drawn,
    )


def _are_in(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    # np.isin makes both sides unique first, which takes ten times as long
    ordered = np.sort(known)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes)


def with_supervised_answers(examples: ExampleTable, shape: Shape, config: DataConfig) -> ExampleTable:
    """Apply `data.supervised_answers` to the examples.

    Raises:
        ConfigError: "last", but the rows are not conversations.
    """
    if config.supervised_answers == "all":
        return examples
    if shape.kind != "messages":
        raise ConfigError(
            "data.supervised_answers: last is for conversations only; other rows have one answer.",
            where=config.train_name,
            facts=[f"rows: {shape}"],
            fix="remove supervised_answers",
        )
    return examples.with_last_answer_alone()


def by_fraction(
    contents: Hashes, prompts: Hashes, fraction: float, limit: int | None, *, seed: int, name: str
) -> npt.NDArray[np.bool_]:
    """Return which examples are held out: those of the prompts with the lowest ranks, up to the wanted number of rows.

    A prompt is ranked by a seeded hash of the lowest content hash of its rows.

    Args:
        contents, prompts: (N,) `Example.content` and `Example.prompt_hash` of each.
        name: of the rows, for messages.
    Raises:
        DataError: there are not two different prompts.
    """
    different, group, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    if len(different) < 2:
        raise DataError(
            "A held-out fraction needs two different prompts.",
            where=name,
            facts=[f"rows: {len(contents)}"],
            fix="all answers to one prompt stay in one part; give separate held-out rows by data.held_out.path",
        )
    wanted = max(1, round(len(contents) * fraction))
    if limit is not None:
        wanted = min(wanted, limit)
    lowest = np.full(len(different), np.iinfo(np.uint64).max)
    np.minimum.at(lowest, group, contents)
    order = seeded_order(lowest, seed)
    taken = np.zeros(len(different), np.bool_)
    rows = 0
    for prompt in order[:-1].tolist():
        if rows >= wanted:
            break
        if rows and rows + sizes[prompt] > wanted:
            continue
        taken[prompt] = True
        rows += int(sizes[prompt])
    return np.asarray(taken[group])
