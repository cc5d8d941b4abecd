"""Begin tokens that stand before an answer: it was encoded as a text of its own."""

from __future__ import annotations

import numpy as np

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.rows import Ints
from distillab.doctor.batch.tokens import TokenFacts


def answer_begins(row: PlacedRow, facts: TokenFacts) -> Ints:
    """Places of begin tokens between a prompt, which is not scored, and its answer, which is.

    A sample that follows another one in its row begins with its prompt, behind the end of an answer; here what stands
    before is not scored and does not end.

    Args:
        row: with its labels where they are meant.
    Returns:
        positions in the row, ascending; none for tokenizers that put no begin token before a text.
    """
    if facts.bos is None or facts.bos in facts.ends or facts.bos not in facts.begins:
        return np.array([], dtype=np.int64)
    found = []
    for at in (np.flatnonzero(row.ids[row.start + 1 : row.stop] == facts.bos) + row.start + 1).tolist():
        scored = row.scored[at] or (at + 1 < row.stop and row.scored[at + 1])
        if not scored or row.scored[at - 1] or int(row.ids[at - 1]) == facts.bos:
            continue
        if not _ended(row, at, facts):
            found.append(at)
    return np.array(found, dtype=np.int64)


def _ended(row: PlacedRow, at: int, facts: TokenFacts) -> bool:
    """Whether an end token stands before a place, blanks aside."""
    for before in row.ids[row.start : at][::-1].tolist():
        if before in facts.ends:
            return True
        if facts.meaning(before).data.strip():
            return False
    return False
