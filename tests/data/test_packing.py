"""Rows are packed whole, each once, tightly; their batch says where each begins."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.data.packing import pack
from distillab.errors import DataError


def indexed(index, ids, learned):
    mask = np.array([place in learned for place in range(len(ids))])
    return IndexedRow(index, EncodedRow(f"k{index}", np.array(ids, dtype=np.int32), mask, 1))


@given(lengths=st.lists(st.integers(1, 40), max_size=60), capacity=st.integers(40, 120))
@example(lengths=[21, 20], capacity=40)  # one more than there is room for
def test_every_row_once_and_no_sequence_above_its_capacity(lengths, capacity):
    found = pack(lengths, capacity)
    assert sorted(place for places in found for place in places) == list(range(len(lengths)))
    assert all(0 < sum(lengths[place] for place in places) <= capacity for places in found)
    assert found == sorted(sorted(places) for places in found)


def fewest(lengths, capacity):
    """Next fit over every order: one of them is optimal."""
    best = len(lengths)
    for order in permutations(lengths):
        number, left = 0, 0
        for length in order:
            if length > left:
                number, left = number + 1, capacity
            left -= length
        best = min(best, number)
    return best


@given(lengths=st.lists(st.integers(1, 10), min_size=1, max_size=6), capacity=st.integers(10, 25))
def test_so_few_rows_need_as_few_sequences_as_possible(lengths, capacity):
    # first fit decreasing is optimal up to two sequences, and within 11/9 beyond
    least = fewest(lengths, capacity)
    assert least <= len(pack(lengths, capacity)) <= least * 11 / 9 + 6 / 9


def test_long_rows_are_placed_first():
    # in the order of the rows, the two short ones would share a sequence, and each long one would need its own
    assert pack([3, 3, 7, 7], 10) == [[0, 2], [1, 3]]


def test_sequences_are_made_as_short_as_their_number_allows():
    # at the full capacity of 100 the first sequence would hold 100 tokens and the second 20
    found = pack([20, 20, 20, 20, 20, 20], 100)
    assert [len(places) for places in found] == [3, 3]


def test_a_row_longer_than_the_capacity_is_refused():
    with pytest.raises(DataError, match="longer than a packed sequence"):
        pack([3, 9], 8)


ROWS = [indexed(7, [5, 6, 2], {2}), indexed(3, [4, 5, 6, 8, 2], {3, 4}), indexed(9, [1, 2], {1})]


@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_batch_is_laid_out_by_hand(side):
    batch = Collator(pad_id=2, padding_side=side, capacity=6)(ROWS)
    pad = -100
    assert batch["input_ids"].tolist() == [[5, 6, 2, 1, 2], [4, 5, 6, 8, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[pad, pad, 2, pad, 2], [pad, pad, pad, 8, 2]]
    assert batch["rows"].tolist() == [[7, 7, 7, 9, 9], [3] * 5]
    padded = Collator(pad_id=2, padding_side=side, capacity=6)([*ROWS, indexed(4, [1, 1, 1, 1, 1, 1], {5})])
    place, edge = (slice(0, 5), 5) if side == "right" else (slice(1, 6), 0)
    assert padded["input_ids"][0, place].tolist() == [5, 6, 2, 1, 2]
    assert padded["rows"][:, edge].tolist() == [-1, -1, 4]
    assert padded["attention_mask"][:, edge].tolist() == [0, 0, 1]
    assert padded["position_ids"][0, edge] == 0 and padded["labels"][0, edge] == pad


def test_a_supervised_first_token_is_refused():
    with pytest.raises(DataError, match="first token of a row is supervised") as error:
        Collator(0, capacity=9)([ROWS[0], indexed(1, [1, 2, 3], {0, 2})])
    assert "k1" in str(error.value)


def test_with_a_row_a_sequence_nothing_differs_from_padding():
    packed, padded = Collator(0, capacity=5)(ROWS[:2]), Collator(0)(ROWS[:2])
    assert all(packed[name].tolist() == padded[name].tolist() for name in padded)
