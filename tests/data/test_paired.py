"""Rows in two tokenisations -> one batch with two sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedDataset, PairedRow, span_count
from distillab.errors import DataError, ShapeError


def _row(index: int, ours: list[int], theirs: list[int], prompt: int = 1) -> PairedRow:
    sides = [
        EncodedRow(f"k{index}", 10 * index + np.arange(len(s), dtype=np.int32), np.arange(len(s)) >= prompt, prompt)
        for s in (ours, theirs)
    ]
    return PairedRow(index, sides[0], sides[1], np.array(ours), np.array(theirs))


def test_the_two_sides_are_what_either_collator_makes_of_its_rows() -> None:
    rows = [_row(4, [0, 1, 1], [0, 0, 1, -1]), _row(2, [-1, 0], [0, -1])]
    batch = PairedCollator(Collator(0), Collator(7, "left"))(rows)
    ours = Collator(0)([IndexedRow(row.index, row.student) for row in rows])
    theirs = Collator(7, "left")([IndexedRow(row.index, row.teacher) for row in rows])
    for name, tensor in ours.items():
        assert torch.equal(batch[name], tensor), name  # type: ignore[literal-required, arg-type]
    for name, tensor in theirs.items():
        assert torch.equal(batch["teacher"][name], tensor), name  # type: ignore[literal-required, arg-type]
    assert "teacher" not in batch["teacher"]
    # a number stays free between rows, so that the first span of a row never follows the last one of another
    assert batch["spans"].tolist() == [[0, 1, 1], [-1, 3, -1]]
    assert batch["teacher"]["spans"].tolist() == [[0, 0, 1, -1], [-1, -1, 3, -1]]


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5), left=st.booleans())
def test_a_span_has_one_number_on_both_sides_and_in_one_row(counts: list[int], left: bool) -> None:
    rows = [_row(i, [-1, *range(n), *range(n - 1, n)], [-1, -1, *range(n)]) for i, n in enumerate(counts)]
    batch = PairedCollator(Collator(0, "left" if left else "right"), Collator(0))(rows)
    for row, n in enumerate(counts):
        mine, its = ({int(s) for s in side["spans"][row]} - {-1} for side in (batch, batch["teacher"]))
        assert len(mine) == n and mine == its
        others = {int(s) for r in range(len(counts)) if r != row for s in batch["spans"][r]} - {-1}
        assert not mine & others and not {s + 1 for s in mine} & others


def test_rows_that_were_not_aligned_are_refused() -> None:
    row = _row(0, [0, 1, 2], [0, 1])
    with pytest.raises(ShapeError, match="not aligned") as caught:
        span_count(row)
    assert "k0" in str(caught.value)
    with pytest.raises(ShapeError, match="not aligned"):
        PairedCollator(Collator(0), Collator(0))([row])


def test_what_either_side_refuses_is_refused() -> None:
    with pytest.raises(DataError, match="at least one row"):
        PairedCollator(Collator(0), Collator(0))([])
    with pytest.raises(DataError, match="first token"):
        PairedCollator(Collator(0), Collator(0))([_row(0, [0, 1], [0, 1], prompt=0)])


def test_the_data_set_gives_its_rows() -> None:
    rows = [_row(0, [0, 1], [0, 1]), _row(1, [0, 1], [0, 1])]
    data = PairedDataset(rows)
    assert len(data) == 2 and data[1] is rows[1]
