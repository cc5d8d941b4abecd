"""The samples of a batch, one by one, however they are padded or packed.

Shape letters: B sequences, L positions of a sequence, or tokens of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distillab.models.batch import TokenBatch
from distillab.models.visibility import sample_numbers


@dataclass(frozen=True, eq=False)
class Sample:
    """One row as it stands in a batch.

    Attributes:
        row: its index in its split.
        input_ids: (L,) its tokens, without padding.
        answer_mask: (L,) bool, True where a token is predicted.
    """

    row: int
    input_ids: npt.NDArray[np.int64]
    answer_mask: npt.NDArray[np.bool_]


def samples(batch: TokenBatch) -> list[Sample]:
    """Every sample of a batch: sequence by sequence, and within one in the order in which they stand.

    That is the order in which the scored positions of a batch are flattened (`models.scoring`), and its tokens too.
    """
    number_BL = sample_numbers(batch).cpu().numpy()
    size, length = number_BL.shape
    # numbered through the batch: a sequence has no more samples than positions
    number = (number_BL + length * np.arange(size)[:, None])[number_BL >= 0]
    cuts = np.flatnonzero(np.diff(number)) + 1
    parts = [np.split(batch[name].cpu().numpy()[number_BL >= 0], cuts) for name in ("rows", "input_ids", "answer_mask")]
    return [Sample(int(row[0]), ids, mask) for row, ids, mask in zip(*parts, strict=True) if len(row)]
