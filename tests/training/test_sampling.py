"""Which rows a step reads: the seed alone decides; grouping moves rows between steps, and only between near ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillab.training.sampling import GROUPED_STEPS, StepSampler


def steps_of(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def ragged(rows: int) -> list[int]:
    return np.random.default_rng(0).integers(5, 500, size=rows).tolist()


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 9), steps=st.integers(1, 40), seed=st.integers(0, 5))
def test_grouping_moves_rows_within_whole_steps_of_one_permutation(rows, batch_size, steps, seed):
    settings = {"rows": rows, "draws": steps * batch_size, "seed": seed, "batch_size": batch_size}
    plain = list(StepSampler(**settings))
    sampler = StepSampler(**settings, lengths=ragged(rows))
    grouped = list(sampler)
    assert len(sampler) == len(grouped) == steps * batch_size
    assert grouped == list(sampler)  # the same again, which resuming relies on
    for first in range(0, len(plain), rows):  # one permutation: its whole steps, and the two that straddle its ends
        start, end = -(-first // batch_size) * batch_size, min(first + rows, len(plain)) // batch_size * batch_size
        for place in range(start, max(start, end), GROUPED_STEPS * batch_size):
            window = slice(place, min(place + GROUPED_STEPS * batch_size, end))
            assert Counter(grouped[window]) == Counter(plain[window])
            assert max(Counter(grouped[window]).values(), default=1) == 1
    assert Counter(grouped) == Counter(plain)
    for step in steps_of(grouped, batch_size):
        lengths = [sampler.lengths[row] for row in step]
        assert lengths == sorted(lengths, reverse=True)


def test_a_step_that_straddles_two_permutations_keeps_its_rows():
    settings = {"rows": 10, "draws": 24, "seed": 1, "batch_size": 4}
    plain = steps_of(list(StepSampler(**settings)), 4)
    grouped = steps_of(list(StepSampler(**settings, lengths=ragged(10))), 4)
    assert sorted(grouped[2]) == sorted(plain[2])
    assert sorted(grouped[0]) != sorted(plain[0])


def test_rows_of_like_length_share_a_step_and_steps_are_in_no_order_of_length():
    lengths = ragged(640)
    settings = {"rows": 640, "draws": 640, "seed": 0, "batch_size": 8}

    def padding(order: list[int]) -> float:
        steps = [[lengths[row] for row in step] for step in steps_of(order, 8)]
        return 1 - sum(map(sum, steps)) / sum(max(step) * len(step) for step in steps)

    plain, grouped = list(StepSampler(**settings)), list(StepSampler(**settings, lengths=lengths))
    assert padding(plain) > 0.4
    assert padding(grouped) < 0.1
    window = GROUPED_STEPS * 8  # longer ones would sort more rows, but leave the ungrouped order further behind
    assert set(grouped[:window]) == set(plain[:window]) and set(grouped[window:]) == set(plain[window:])
    longest = [lengths[step[0]] for step in steps_of(grouped, 8)]
    assert abs(np.corrcoef(longest[:GROUPED_STEPS], range(GROUPED_STEPS))[0, 1]) < 0.5
    # another seed, other rows and another order of steps
    assert grouped != list(StepSampler(**{**settings, "seed": 1}, lengths=lengths))


def test_ungrouped_order_is_one_seeded_permutation_after_another():
    settings = {"rows": 5, "draws": 12, "batch_size": 4}
    order = list(StepSampler(**settings, seed=3))
    assert order == list(StepSampler(**settings, seed=3)) != list(StepSampler(**settings, seed=4))
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        StepSampler(rows=5, draws=9, seed=0, batch_size=4)
    with pytest.raises(ValueError, match="3 lengths for 5 rows"):
        StepSampler(rows=5, draws=8, seed=0, batch_size=4, lengths=[1, 2, 3])
