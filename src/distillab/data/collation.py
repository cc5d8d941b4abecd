"""Collate rows into tensors, padded or packed. B sequences, L positions of the longest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.packing import pack
from distillab.errors import DataError
from distillab.models.batch import TokenBatch

PaddingSide = Literal["right", "left"]
UNSUPERVISED = -100
NO_ROW = -1
NO_SPAN = -1


@dataclass(frozen=True, eq=False)
class IndexedRow:
    """A row and its index in its split.

    Attributes:
        spans: (L,) int64, the index of the span of each token, if two tokenisations are aligned.
    """

    index: int
    row: EncodedRow
    spans: npt.NDArray[np.int64] | None = None


class TokenDataset(Dataset[IndexedRow]):
    """A split as a torch data set, for `Collator`."""

    def __init__(self, split: EncodedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.rows)

    def __getitem__(self, index: int) -> IndexedRow:
        return IndexedRow(index, self.split.rows[index])


class Collator:
    """Pad rows to the longest one, or pack them into few sequences first.

    Masks are made from lengths, so `pad_id` can be any id, EOS too.

    Args:
        pad_id: fills the padding.
        padding_side: right or left; a model that reads position_ids gives the same numbers for both.
        capacity: pack rows into sequences of at most this many tokens; None: one row a sequence.
    """

    def __init__(self, pad_id: int, padding_side: PaddingSide = "right", capacity: int | None = None) -> None:
        self.pad_id = pad_id
        self.padding_side = padding_side
        self.capacity = capacity

    def __call__(self, rows: Sequence[IndexedRow]) -> TokenBatch:
        """Collate the rows into one batch.

        Raises:
            DataError: no rows; a row's first token is supervised, although no token before it predicts it; a row is
                longer than the capacity.
        """
        if not rows:
            raise DataError("A batch needs at least one row.")
        for item in rows:
            _require_first_token_given(item.row)
        sequences = self._sequences(rows)
        size, longest = len(sequences), max(sum(len(item.row) for item in sequence) for sequence in sequences)
        input_ids_BL = torch.full((size, longest), self.pad_id, dtype=torch.int64)
        attention_BL = torch.zeros((size, longest), dtype=torch.int64)
        position_BL = torch.zeros((size, longest), dtype=torch.int64)
        answer_BL = torch.zeros((size, longest), dtype=torch.bool)
        rows_BL = torch.full((size, longest), NO_ROW, dtype=torch.int64)
        spans_BL = torch.full((size, longest), NO_SPAN, dtype=torch.int64)
        for place, sequence in enumerate(sequences):
            tokens = sum(len(item.row) for item in sequence)
            start = 0 if self.padding_side == "right" else longest - tokens
            attention_BL[place, start : start + tokens] = 1
            for item in sequence:
                here = slice(start, start + len(item.row))
                input_ids_BL[place, here] = torch.from_numpy(item.row.input_ids).long()
                position_BL[place, here] = torch.arange(len(item.row))
                answer_BL[place, here] = torch.from_numpy(item.row.answer_mask)
                rows_BL[place, here] = item.index
                if item.spans is not None:
                    spans_BL[place, here] = torch.from_numpy(item.spans)
                start = here.stop
        batch = TokenBatch(
            input_ids=input_ids_BL,
            attention_mask=attention_BL,
            position_ids=position_BL,
            labels=input_ids_BL.masked_fill(~answer_BL, UNSUPERVISED),
            answer_mask=answer_BL,
            rows=rows_BL,
        )
        if any(item.spans is not None for item in rows):
            batch["spans"] = spans_BL
        return batch

    def _sequences(self, rows: Sequence[IndexedRow]) -> list[list[IndexedRow]]:
        if self.capacity is None:
            return [[item] for item in rows]
        return [[rows[place] for place in places] for places in pack([len(item.row) for item in rows], self.capacity)]


def _require_first_token_given(row: EncodedRow) -> None:
    # in a packed sequence it would be predicted from the previous sample, with left padding from padding
    if row.answer_mask[:1].any():
        raise DataError(
            "The first token of a row is supervised, but no token before it can predict it.",
            where=f"row with key {row.key}",
        )
