"""Rows as padded tensors.

Shapes: B sequences, L positions of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.data import Dataset

from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.errors import DataError
from distillab.models.batch import TokenBatch

PaddingSide = Literal["right", "left"]
UNSUPERVISED = -100


@dataclass(frozen=True, eq=False)
class IndexedRow:
    """A row and its index in its split."""

    index: int
    row: EncodedRow


class TokenDataset(Dataset[IndexedRow]):
    """A split as a torch data set; it gives what `Collator` takes."""

    def __init__(self, split: EncodedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.rows)

    def __getitem__(self, index: int) -> IndexedRow:
        return IndexedRow(index, self.split.rows[index])


class Collator:
    """Pads rows to the longest of them.

    Padding is known by length alone: `pad_id` may be any id, EOS too.

    Args:
        pad_id: what stands in the padding.
        padding_side: right or left; a model that reads position_ids gives the same numbers for both.
    """

    def __init__(self, pad_id: int, padding_side: PaddingSide = "right") -> None:
        self.pad_id = pad_id
        self.padding_side = padding_side

    def __call__(self, rows: Sequence[IndexedRow]) -> TokenBatch:
        """One batch.

        Raises:
            DataError: no rows.
        """
        if not rows:
            raise DataError("A batch needs at least one row.")
        size, longest = len(rows), max(len(item.row) for item in rows)
        input_ids_BL = torch.full((size, longest), self.pad_id, dtype=torch.int64)
        attention_BL = torch.zeros((size, longest), dtype=torch.int64)
        position_BL = torch.zeros((size, longest), dtype=torch.int64)
        answer_BL = torch.zeros((size, longest), dtype=torch.bool)
        for place, item in enumerate(rows):
            row = item.row
            start = 0 if self.padding_side == "right" else longest - len(row)
            here = slice(start, start + len(row))
            input_ids_BL[place, here] = torch.from_numpy(row.input_ids).long()
            attention_BL[place, here] = 1
            position_BL[place, here] = torch.arange(len(row))
            answer_BL[place, here] = torch.from_numpy(row.answer_mask)
        return TokenBatch(
            input_ids=input_ids_BL,
            attention_mask=attention_BL,
            position_ids=position_BL,
            labels=input_ids_BL.masked_fill(~answer_BL, UNSUPERVISED),
            answer_mask=answer_BL,
            rows=torch.tensor([item.index for item in rows], dtype=torch.int64),
        )
