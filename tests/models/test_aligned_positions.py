"""Where two tokenisations meet, on spans that are written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distillab.data.collation import Collator, PaddingSide
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.errors import ShapeError
from distillab.models.aligned_positions import (
    ordinal_positions,
    partners,
    scored_spans,
    shared_spans,
    span_ends,
    span_starts,
    teacher_batch,
)
from distillab.models.batch import TokenBatch


def _side(key: str, spans: list[int], prompt: int) -> tuple[EncodedRow, np.ndarray]:
    length = len(spans)
    return EncodedRow(key, np.arange(length, dtype=np.int32), np.arange(length) >= prompt, prompt), np.array(spans)


def _row(index: int, ours: tuple[list[int], int], theirs: tuple[list[int], int]) -> PairedRow:
    (student, s), (teacher, t) = _side(f"k{index}", *ours), _side(f"k{index}", *theirs)
    return PairedRow(index, student, teacher, s, t)


#                spans of the tokens, prompt tokens; the batch numbers the second row's from 6 on
FIRST = _row(0, ([0, 1, 1, 2, 3, 3, 4], 1), ([-1, 0, 1, 2, -1, 3, 3, 4], 2))
# span 1 straddles the border on the teacher's side; span 3 follows a token of the student alone
SECOND = _row(1, ([0, 1, 2, -1, 3], 1), ([0, 1, 1, 2, 3], 2))


def _batch(*rows: PairedRow, ours: PaddingSide = "right", theirs: PaddingSide = "right") -> TokenBatch:
    return PairedCollator(Collator(0, ours), Collator(0, theirs))(rows)


@pytest.mark.parametrize("ours", ["left", "right"])
@pytest.mark.parametrize("theirs", ["left", "right"])
def test_meetings_of_two_rows(ours: PaddingSide, theirs: PaddingSide) -> None:
    batch = _batch(FIRST, SECOND, ours=ours, theirs=theirs)
    # scored are the tokens behind the prompt
    assert scored_spans(batch).tolist() == [1, 1, 2, 3, 3, 4, 7, 8, -1, 9]
    assert scored_spans(batch["teacher"]).tolist() == [1, 2, -1, 3, 3, 4, 7, 8, 9]
    assert shared_spans(batch).nonzero()[:, 0].tolist() == [1, 2, 3, 4, 8, 9]
    assert span_starts(batch).tolist() == [True, False, True, True, False, True, True, True, False, True]
    # the second row's span 7 begins in the teacher's prompt, so that nothing predicts from the same place
    assert partners(batch).tolist() == [0, -1, 1, 3, -1, 5, -1, 7, -1, 8]
    assert ordinal_positions(batch).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, -1]


def test_what_comes_right_after_a_span() -> None:
    batch = _batch(FIRST, SECOND)
    # of the first row's prompt too; not past the end of a row, nor over a token of one side alone
    assert span_ends(batch, 10).tolist() == [0, 2, 3, 5, -1, -1, 6, 7, -1, -1]
    assert span_ends(batch["teacher"], 10).tolist() == [0, 1, -1, 5, -1, -1, -1, 7, 8, -1]


def test_the_end_of_a_row_is_inside_of_its_last_span() -> None:
    batch = _batch(_row(0, ([0, 1, 1], 1), ([0, 1], 1)), SECOND)
    assert span_ends(batch, 7).tolist()[:2] == [0, -1]


def test_a_span_that_an_answer_ends_in_is_not_shared() -> None:
    """As where a conversation goes on with what the other one says, which is not scored."""
    row = _row(0, ([0, 1, 2], 1), ([0, 1, 1, 2], 1))
    row.teacher.answer_mask[2] = False
    batch = _batch(row)
    assert shared_spans(batch).tolist() == [False, False, True]
    assert partners(batch).tolist() == [-1, 1]


def test_the_order_of_rows_changes_only_the_order() -> None:
    one, other = _batch(FIRST, SECOND), _batch(SECOND, FIRST)
    assert partners(other).tolist() == [-1, 1, -1, 2, 3, -1, 4, 6, -1, 8]
    assert ordinal_positions(other).tolist() == [0, 1, 2, -1, 3, 4, 5, 6, 7, 8]
    assert int(shared_spans(one).sum()) == int(shared_spans(other).sum())


def test_rows_without_any_span_have_no_meetings() -> None:
    batch = _batch(_row(0, ([-1, -1, -1], 1), ([-1, -1], 1)))
    assert shared_spans(batch).tolist() == [False]
    assert partners(batch).tolist() == [-1, -1]
    assert span_ends(batch, 1).tolist() == [-1]
    assert ordinal_positions(batch).tolist() == [0, -1]


def test_a_sample_that_one_side_does_not_score_has_no_partners() -> None:
    batch = _batch(FIRST, _row(1, ([0, 1, 2], 1), ([0, 1, 2], 3)))
    assert partners(batch).tolist()[6:] == [-1, -1]
    assert ordinal_positions(batch).tolist()[6:] == [-1, -1]


def test_samples_packed_in_another_order_are_matched_by_their_row() -> None:
    rows = [_row(index, ([0] + [1] * (length - 1), 1), ([0, 1], 1)) for index, length in enumerate([4, 6, 2])]
    batch = PairedCollator(Collator(0, capacity=6), Collator(0, capacity=6))(rows)
    assert batch["rows"].tolist() == [[0] * 4 + [2] * 2, [1] * 6]
    assert batch["teacher"]["rows"].tolist() == [[0, 0, 1, 1, 2, 2]]
    expected = [0, -1, -1, 2, 1, -1, -1, -1, -1]
    assert partners(batch).tolist() == ordinal_positions(batch).tolist() == expected


def test_sides_of_other_samples_are_refused() -> None:
    batch = _batch(FIRST)
    batch["teacher"] = _batch(SECOND)["teacher"]
    with pytest.raises(ShapeError, match="other samples"):
        ordinal_positions(batch)


def test_a_batch_of_one_tokenizer_has_no_meetings() -> None:
    batch = _batch(FIRST)
    assert teacher_batch(batch) is batch["teacher"]
    del batch["teacher"]
    del batch["spans"]
    assert teacher_batch(batch) is batch
    with pytest.raises(ShapeError, match="where the two tokenisations meet"):
        scored_spans(batch)
