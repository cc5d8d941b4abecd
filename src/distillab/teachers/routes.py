"""Find the row that a sample of a batch is, for sources that treat rows differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from distillab.cache.rows import row_digest
from distillab.data.encoding import EncodedRow
from distillab.errors import TeacherError
from distillab.teachers.stored.rows import Sample

T = TypeVar("T")


class Routes(Generic[T]):
    """A value for each row: found by the row's tokens, and for a new answer to its prompt by the prompt.

    Batches can come in any order, padded or packed. Of two rows with equal tokens, or with equal prompts, the one whose
    index in its split is the sample's is meant.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, dict[int, T]] = {}
        self._prompts: dict[bytes, dict[int, T]] = {}

    def add(self, rows: Sequence[EncodedRow], values: Sequence[T]) -> None:
        """Add the rows of a split, in its order, with the value of each."""
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            self._rows.setdefault(row_digest(row.input_ids, row.answer_mask), {}).setdefault(index, value)
            self._prompts.setdefault(row.input_ids[: row.prompt_length].tobytes(), {})[index] = value

    def of_row(self, sample: Sample) -> T | None:
        """Return the value of the row with the sample's tokens and answer mask; None: there is none."""
        found = self._rows.get(row_digest(sample.input_ids, sample.answer_mask))
        return None if found is None else found.get(sample.row, next(iter(found.values())))

    def of_prompt(self, sample: Sample) -> T:
        """Return the value of a row with the sample's prompt.

        Raises:
            TeacherError: no row has it.
        """
        found = self._prompts.get(sample.input_ids[: last_answer(sample)].astype(np.int32).tobytes())
        if found is None:
            raise TeacherError(
                "A row is none of the run's rows, so it is not known how the teacher reads it.",
                facts=[f"row {sample.row}, it begins with the ids {sample.input_ids[:8].tolist()}"],
                fix="give the rows that the run was loaded with",
            )
        return found.get(sample.row, next(iter(found.values())))


def last_answer(sample: Sample) -> int:
    """Return the index of the first token of the last scored stretch; the number of tokens if nothing is scored."""
    starts = np.flatnonzero(np.diff(sample.answer_mask.astype(np.int8), prepend=0) == 1)
    return int(starts[-1]) if len(starts) else len(sample.input_ids)
