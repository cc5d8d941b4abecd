"""Who reads whom, against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.models.scoring import scored_positions, scored_rows, scored_targets
from distillab.models.visibility import is_packed, sample_numbers, visible


def indexed(index: int, ids: list[int], prompt: int) -> IndexedRow:
    mask = np.array([place >= prompt for place in range(len(ids))])
    return IndexedRow(index, EncodedRow(f"k{index}", np.array(ids, dtype=np.int32), mask, prompt))


@st.composite
def row_lists(draw: st.DrawFn) -> list[IndexedRow]:
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=7))
    # every token occurs once, so that a token says where it came from
    starts = np.cumsum([0, *lengths])
    return [
        indexed(draw(st.integers(0, 3)), list(range(start, start + length)), draw(st.integers(1, length - 1)))
        for start, length in zip(starts, lengths, strict=False)
    ]


@given(rows=row_lists(), capacity=st.none() | st.integers(9, 30), side=st.sampled_from(["right", "left"]))
def test_visible_is_what_a_loop_over_all_pairs_says(rows, capacity, side):
    batch = Collator(99, side, capacity)(rows)
    origin = {int(token): number for number, item in enumerate(rows) for token in item.row.input_ids}
    size, length = batch["input_ids"].shape
    got = visible(batch)
    assert got.shape == (size, length, length) and got.dtype == torch.bool
    for b in range(size):
        for t in range(length):
            for s in range(length):
                tokens = bool(batch["attention_mask"][b, t]) and bool(batch["attention_mask"][b, s])
                same = tokens and origin[int(batch["input_ids"][b, t])] == origin[int(batch["input_ids"][b, s])]
                assert bool(got[b, t, s]) == (same and s <= t)


@given(rows=row_lists(), capacity=st.none() | st.integers(9, 30), side=st.sampled_from(["right", "left"]))
def test_scored_tokens_and_their_rows_are_those_of_the_rows_alone(rows, capacity, side):
    batch = Collator(99, side, capacity)(rows)
    found = sorted(zip(scored_targets(batch).tolist(), scored_rows(batch).tolist(), strict=True))
    expected = sorted(
        (int(token), item.index)
        for item in rows
        for token, learned in zip(item.row.input_ids, item.row.answer_mask, strict=True)
        if learned
    )
    assert found == expected
    # what predicts a token is the one before it in its own row
    predictors = batch["input_ids"][:, :-1][scored_positions(batch)]
    assert (scored_targets(batch) - predictors).unique().tolist() == [1]


def test_the_same_row_after_itself_is_two_samples():
    batch = Collator(0, capacity=8)([indexed(5, [1, 2, 3], 1), indexed(5, [1, 2, 3], 1)])
    assert batch["rows"].tolist() == [[5] * 6]
    assert sample_numbers(batch).tolist() == [[0, 0, 0, 1, 1, 1]]
    assert not visible(batch)[0, 3:, :3].any()


def test_padding_is_no_sample_and_makes_no_batch_packed():
    rows = [indexed(0, [1, 2], 1), indexed(1, [3, 4, 5, 6], 1)]
    for side in ("right", "left"):
        batch = Collator(0, side)(rows)
        assert not is_packed(batch)
        assert (sample_numbers(batch) == -1).tolist() == (batch["attention_mask"] == 0).tolist()
        assert is_packed(Collator(0, side, capacity=6)(rows))
