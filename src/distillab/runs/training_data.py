"""The training rows of a run as its trainer takes them, in one tokenisation or in two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from distillab.alignment.transport import TransportCounts
from distillab.data.aligning import pair_block, pair_rows, span_aligner
from distillab.data.collation import Collator, IndexedRow, TokenDataset
from distillab.data.encoded_rows import EncodedSplit, row_lengths
from distillab.data.examples import Example
from distillab.data.paired import PairedCollator, PairedDataset
from distillab.data.streaming import ExampleStream, Items, RowStream
from distillab.data.transport import count_transport
from distillab.data.written import WrittenPairs
from distillab.models.batch import TokenBatch
from distillab.records import SpanCounts, TransportRecord
from distillab.runs.inputs import RunInputs

MakeCollator = Callable[[int], Collator]  # takes the padding id


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The rows of a run as its trainer takes them.

    Attributes:
        split: the rows in the student's tokens.
        rows: as `collator` takes them.
        collator: makes the training batches.
        row_names: the origin of each row of the split, for messages.
        lengths: the student's tokens of each of `rows`.
        spans: counts of the alignment of two tokenisations; None if there is one.
        pairs: aligns answers that the student writes; None if there is one tokenisation.
        transport: counts of the rows in both tokenisations; None if no term reads them.
        stream: `rows`, where they are streamed; `split` then holds the first block, and `lengths` is empty.
    """

    split: EncodedSplit
    rows: Dataset[Any]
    collator: Callable[[Sequence[Any]], TokenBatch]
    row_names: Sequence[str]
    lengths: npt.NDArray[np.int64]
    spans: SpanCounts | None = None
    pairs: WrittenPairs | None = None
    transport: TransportCounts | None = None
    stream: RowStream | None = None


class _RowNames(Sequence[str]):
    """Origin and key of examples."""

    def __init__(self, examples: Sequence[Example] | Mapping[int, Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...

    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        example = self._examples[at]
        return f"{example.origin} (key {example.key})"


def training_data(inputs: RunInputs, split: EncodedSplit, *, collator: MakeCollator | None = None) -> TrainingData:
    """Return the rows of a split, in both tokenisations if the terms read both.

    Args:
        collator: makes the batches instead of the usual one.
    Raises:
        DataError: no row was read by both tokenizers.
    """
    settings, reader, teacher = inputs.recipe.training, inputs.student, inputs.teacher
    names = _RowNames(split.examples)
    usual = reader.collator(settings.padding_side, packing=settings.packing)
    if teacher is None or not teacher.own_tokens:
        lengths = row_lengths(split.rows)
        made = collator(reader.encoder.pad_id) if collator else usual
        return TrainingData(split, TokenDataset(split), made, names, lengths)
    source = f"{split.counts.source}, and {teacher.spec.name}"
    aligner = span_aligner(reader, teacher.reader)
    rows, counts = pair_rows(split.rows, teacher.rows(split), aligner=aligner, source=source)
    paired = PairedCollator(usual, teacher.reader.collator(settings.padding_side))
    whole = replace(teacher.reader, encoder=teacher.reader.encoder.with_max_tokens(teacher.context))
    pairs = WrittenPairs(split, rows, reader, whole, aligner)
    vocabularies, transport = teacher.vocabularies, None
    if vocabularies is not None and inputs.method.counts_rows:
        transport = count_transport(rows, student=reader, teacher=teacher.reader, vocabularies=vocabularies)
    return TrainingData(split, PairedDataset(rows), paired, names, rows.lengths, counts, pairs, transport)


def streamed_data(inputs: RunInputs) -> TrainingData:
    """Return the rows of a run whose training rows are streamed, in both tokenisations if the terms read both."""
    settings, reader, teacher, data = inputs.recipe.training, inputs.student, inputs.teacher, inputs.recipe.data
    paired = None if teacher is None or not teacher.own_tokens else teacher.reader
    aligner = None if paired is None else span_aligner(reader, paired)
    source = data.train_name

    def items(split: EncodedSplit) -> Items:
        if paired is None or aligner is None:
            return [IndexedRow(place, row) for place, row in enumerate(split.rows)], None
        other = paired.encoder.encode_block(split.examples, source=source)
        return pair_block(split.rows, other.rows, aligner=aligner, source=source)

    rows = RowStream(
        ExampleStream(data, inputs.splits.shape, seed=inputs.recipe.seed),
        lambda examples: reader.encoder.encode_block(examples, source=source),
        items,
        length=settings.steps * settings.batch_size,
        kept=2 * settings.batch_size,
        held_out={example.prompt_hash for example in inputs.splits.held_out},
    )
    collator: Callable[[Sequence[Any]], TokenBatch] = reader.collator(settings.padding_side, packing=settings.packing)
    if paired is not None:
        collator = PairedCollator(cast(Collator, collator), paired.collator(settings.padding_side))
    names, lengths = _RowNames(rows.examples), np.empty(0, dtype=np.int64)
    return TrainingData(inputs.train, rows, collator, names, lengths, stream=rows)


def transport_record(counts: TransportCounts | None) -> TransportRecord | None:
    """Return the record of what was counted, if anything was."""
    if counts is None:
        return None
    return TransportRecord(fingerprint=counts.fingerprint, tokens=int(counts.counts.sum()), entries=len(counts.keys))
