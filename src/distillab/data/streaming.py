"""Read training rows while a run trains: block after block of a source, shuffled within the block, pass after pass.

Nothing is stored. Every process reads all rows and takes its own, so that the rows of a step do not depend on how many
processes there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple, TypeVar

from torch.utils.data import Dataset

from distillab.config.data import DataConfig
from distillab.data.collation import IndexedRow
from distillab.data.encoded_rows import EncodedSplit
from distillab.data.examples import Example
from distillab.data.paired import PairedRow
from distillab.data.row_examples import made_examples, unreadable
from distillab.data.shapes import Columns, Shape, recognise
from distillab.data.sources import Row, content_hash, find_source
from distillab.data.textfiles import Placed
from distillab.errors import DataError
from distillab.records import EncodingCounts, SpanCounts

_Counts = TypeVar("_Counts", EncodingCounts, SpanCounts)
Items = tuple[Sequence[IndexedRow | PairedRow], SpanCounts | None]


class Block(NamedTuple):
    """Examples that are shuffled together: its pass over the source, its number in it, rows that could not be read."""

    passes: int
    number: int
    examples: list[Example]
    skipped: int


class ExampleStream:
    """The examples of a source in blocks of `data.streaming.buffer` rows, without end.

    Args:
        config: with `streaming`.
        shape: of the first rows, as which all are read.
        seed: decides the order in each block.
    """

    def __init__(self, config: DataConfig, shape: Shape, *, seed: int) -> None:
        assert config.streaming is not None
        self._config, self._shape, self._seed = config, shape, seed
        self._source, self._buffer = config.sources[0], config.streaming.buffer
        self._facts = find_source(self._source).facts

    def blocks(self, passes: int = 0, first: int = 0) -> Iterator[Block]:
        """Read the source from the block with the number `first` of a pass on; rows before it are read, not made.

        Raises:
            DataError: as of `examples_of`; later rows have other columns; the source has changed.
        """
        while True:
            source, broken = find_source(self._source), list[str]()
            if source.facts != self._facts:
                raise DataError("The rows changed while they were read.", where=source.name, fix="start again")
            rows = source.rows(broken if self._config.on_bad_row == "skip" else None)
            columns = Columns()
            self._see(columns, list(islice(rows, self._config.held_out.first or 0)))
            for number in count():
                broken.clear()
                some = list(islice(rows, self._buffer))
                if not some:
                    break
                self._see(columns, some)
                if number >= first:
                    self._require_shape(columns, some[0])
                    examples, bad = self._made(some, f"{self._seed} {passes} {number}")
                    yield Block(passes, number, examples, bad + len(broken))
            passes, first = passes + 1, 0

    def _see(self, columns: Columns, some: Sequence[Placed]) -> None:
        if some:
            columns.add((values for _, _, values in some), origin=f"{some[0][0]}{some[0][1]}")

    def _require_shape(self, columns: Columns, first: Placed) -> None:
        found = recognise(columns, self._source.columns)
        if replace(found, ignored=()) != replace(self._shape, ignored=()):
            raise DataError(
                "Later rows of a stream have other columns than its first ones.",
                where=f"rows from {first[0]}{first[1]} on",
                facts=[f"first rows: {self._shape}", f"with these: {found}"],
                fix="name the columns: data.train.columns: {…}; or do without streaming",
            )

    def _made(self, some: Sequence[Placed], seed: str) -> tuple[list[Example], int]:
        config, problems = self._config, list[str]()
        # how often a row came before is not known
        rows = [Row(f"{content_hash(values)}-0", values, f"{place}{number}") for place, number, values in some]
        made = made_examples(rows, self._shape, prompt_share=config.prompt_share, beside=(), problems=problems)
        examples = [one.with_last_answer_alone() if config.supervised_answers == "last" else one for one in made]
        if problems and config.on_bad_row == "error":
            raise unreadable(problems, len(some), self._shape, where=self._source.path)
        random.Random(seed).shuffle(examples)
        return examples, len(problems)


@dataclass(frozen=True)
class _Begin:
    """Where a block begins: `index` rows were given before, of these counts."""

    passes: int
    number: int
    index: int = 0
    counts: EncodingCounts | None = None
    spans: SpanCounts | None = None
    held_out: int = 0


class RowStream(Dataset[Any]):
    """The rows of a stream as a data set, which are asked for in ascending order.

    Args:
        stream: their examples.
        encode: encodes a block.
        items: makes what the collator takes of a block, each with its place in it.
        length: rows that will be asked for.
        kept: rows that can be asked for again, counted from the last block on.
        held_out: prompts of held-out rows, as `Example.prompt_hash`.

    Attributes:
        examples: of the rows that can be asked for, by their indexes.
    """

    def __init__(
        self,
        stream: ExampleStream,
        encode: Callable[[Sequence[Example]], EncodedSplit],
        items: Callable[[EncodedSplit], Items],
        *,
        length: int,
        kept: int,
        held_out: set[str],
    ) -> None:
        self._stream, self._encode, self._items_of = stream, encode, items
        self._length, self._kept, self._prompts = length, kept, held_out
        self.examples: dict[int, Example] = {}
        self._go_to(_Begin(0, 0))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> IndexedRow | PairedRow:
        while index >= self._next.index:
            self._read()
        return self._items[index]

    @property
    def counts(self) -> EncodingCounts:
        """Counts of the rows that were read; different prompts are counted in each block."""
        assert self._next.counts is not None  # rows were asked for
        return self._next.counts

    @property
    def spans(self) -> SpanCounts | None:
        """Counts of their alignment; None: there is one tokenisation."""
        return self._next.spans

    @property
    def note(self) -> str:
        """A remark for the run's record."""
        return (
            f"The training rows were streamed: {self._next.passes + 1} passes begun, {self._next.held_out} rows with a "
            "held-out prompt; prompts are counted in each block, and the unigram line is that of the first block."
        )

    def state(self, index: int) -> dict[str, Any]:
        """Return where the block of a row begins, as JSON values."""
        begin = next(one for one in reversed([*self._begins, self._next]) if one.index <= index)
        return vars(begin) | {
            name: None if counts is None else counts.model_dump(mode="json")
            for name, counts in (("counts", begin.counts), ("spans", begin.spans))
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        kinds = {"counts": EncodingCounts, "spans": SpanCounts}
        made = {name: state[name] and kind(**state[name]) for name, kind in kinds.items()}
        self._go_to(_Begin(**state | made))

    def _go_to(self, begin: _Begin) -> None:
        self._items: dict[int, IndexedRow | PairedRow] = {}
        self._begins: list[_Begin] = []
        self._next = begin
        self._blocks = self._stream.blocks(begin.passes, begin.number)
        self._empty = 0

    def _read(self) -> None:
        block = next(self._blocks)
        begin = replace(self._next, passes=block.passes, number=block.number)
        split = self._encode(block.examples)
        items, spans = self._items_of(split)
        self._require_rows(len(items), block)
        for index, item in enumerate(items, start=begin.index):
            self.examples[index] = split.examples[item.index]
            self._items[index] = replace(item, index=index)
        self._begins.append(begin)
        for old in [index for index in self._items if index < begin.index - self._kept]:
            del self._items[old], self.examples[old]
        while self._begins[0].index < begin.index - self._kept and self._begins[1].index <= begin.index - self._kept:
            del self._begins[0]
        self._next = _Begin(
            block.passes,
            block.number + 1,
            begin.index + len(items),
            _sum(begin.counts, split.counts.model_copy(update={"skipped": block.skipped})),
            None if spans is None else _sum(begin.spans, spans),
            begin.held_out + sum(example.prompt_hash in self._prompts for example in split.examples),
        )

    def _require_rows(self, found: int, block: Block) -> None:
        self._empty = 0 if found else self._empty + 1
        if self._empty > 1 and block.number == 0:
            raise DataError("No row of the stream can be trained on.", where=block.examples[0].origin)


def _sum(before: _Counts | None, more: _Counts) -> _Counts:
    if before is None:
        return more
    values = {name: getattr(more, name) for name in type(more).model_fields}
    added = {name: getattr(before, name) + value for name, value in values.items() if isinstance(value, int)}
    return more.model_copy(update=added)
