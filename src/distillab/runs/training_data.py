"""What a trainer is given of a split: rows, batches, names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from distillab.config.models import RunRecipe
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.collation import Collator, TokenDataset
from distillab.data.encoding import EncodedSplit
from distillab.data.paired import PairedCollator, PairedDataset
from distillab.models.batch import TokenBatch
from distillab.records import SpanCounts
from distillab.runs.inputs import RunInputs
from distillab.runs.sides import uses_teacher_tokenizer


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The rows of a run.

    Attributes:
        rows: as `collator` takes them.
        collator: makes the training batches.
        row_names: where each row of the split stands, for messages.
        lengths: the student's tokens of each of `rows`.
        spans: how two tokenisations meet; None where there is one.
    """

    rows: Dataset[Any]
    collator: Callable[[Sequence[Any]], TokenBatch]
    row_names: Sequence[str]
    lengths: Sequence[int]
    spans: SpanCounts | None = None


def training_data(
    recipe: RunRecipe, inputs: RunInputs, split: EncodedSplit, *, collator: Callable[[int], Collator] | None = None
) -> TrainingData:
    """The rows of a split, in both tokenisations where the recipe's terms read both.

    Args:
        collator: makes the batches instead of the usual one, given the padding id.
    Raises:
        DataError: no row was read by both tokenizers.
    """
    settings, reader = recipe.training, inputs.student
    names = [f"{example.origin} (key {example.key})" for example in split.examples]
    usual = reader.collator(settings.padding_side, packing=settings.packing)
    if not uses_teacher_tokenizer(recipe):
        lengths = [len(row) for row in split.rows]
        made = collator(reader.encoder.pad_id) if collator else usual
        return TrainingData(TokenDataset(split), made, names, lengths)
    teacher, place = inputs.teacher, inputs.place
    assert teacher is not None  # the pair was admitted
    assert place is not None
    theirs = inputs.teacher_split(split).rows
    source = f"{split.counts.source}, and {place.name}"
    rows, counts = pair_rows(split.rows, theirs, aligner=span_aligner(reader, teacher), source=source)
    paired = PairedCollator(usual, teacher.collator(settings.padding_side))
    return TrainingData(PairedDataset(rows), paired, names, [len(row.student) for row in rows], counts)
