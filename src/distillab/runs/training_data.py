"""The training rows of a run as its trainer takes them, in one tokenisation or in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from torch.utils.data import Dataset

from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.collation import Collator, TokenDataset
from distillab.data.encoded_rows import EncodedSplit, row_lengths
from distillab.data.examples import Example
from distillab.data.paired import PairedCollator, PairedDataset
from distillab.data.written import WrittenPairs
from distillab.models.batch import TokenBatch
from distillab.records import SpanCounts
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
    """

    split: EncodedSplit
    rows: Dataset[Any]
    collator: Callable[[Sequence[Any]], TokenBatch]
    row_names: Sequence[str]
    lengths: Sequence[int]
    spans: SpanCounts | None = None
    pairs: WrittenPairs | None = None


class _RowNames(Sequence[str]):
    """Origin and key of examples."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...

    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return _RowNames(self._examples[at])
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
        lengths = row_lengths(split.rows).tolist()
        made = collator(reader.encoder.pad_id) if collator else usual
        return TrainingData(split, TokenDataset(split), made, names, lengths)
    source = f"{split.counts.source}, and {teacher.spec.name}"
    aligner = span_aligner(reader, teacher.reader)
    rows, counts = pair_rows(split.rows, teacher.rows(split), aligner=aligner, source=source)
    paired = PairedCollator(usual, teacher.reader.collator(settings.padding_side))
    whole = replace(teacher.reader, encoder=teacher.reader.encoder.with_max_tokens(teacher.context))
    pairs = WrittenPairs(split, rows, reader, whole, aligner)
    return TrainingData(split, PairedDataset(rows), paired, names, rows.lengths.tolist(), counts, pairs)
