"""Intervals: against simulation, and at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillab.study.statistics import paired_interval


def test_mean_is_the_difference_of_nats_over_tokens() -> None:
    tokens = np.array([2.0, 4.0])
    interval = paired_interval([np.array([1.0, 2.0])], [np.array([2.0, 4.0])], tokens)
    assert interval.mean == pytest.approx(-3.0 / 6.0)


def test_equal_arms_give_a_point() -> None:
    values = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    interval = paired_interval(values, values, np.array([1.0, 1.0]))
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_one_seed_and_one_row_say_nothing() -> None:
    interval = paired_interval([np.array([1.0])], [np.array([2.0])], np.array([1.0]))
    assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_swapping_the_sides_mirrors_the_interval() -> None:
    generator = np.random.default_rng(0)
    a, b = ([generator.normal(size=20) for _ in range(3)] for _ in range(2))
    tokens = np.full(20, 5.0)
    one, two = paired_interval(a, b, tokens), paired_interval(b, a, tokens)
    assert (one.mean, one.low, one.high) == pytest.approx((-two.mean, -two.high, -two.low))


@pytest.mark.parametrize(("seed_sd", "row_sd"), [(0.05, 0.1), (0.0, 1.0), (0.05, 1.0)])
def test_covers_the_truth_about_as_often_as_it_says(seed_sd: float, row_sd: float) -> None:
    """Simulated studies of three seeds and 60 rows with a known difference of 0.3 nats a token."""
    generator = np.random.default_rng(1)
    covered, studies = 0, 1500
    for _ in range(studies):
        tokens = generator.integers(5, 40, size=60).astype(np.float64)
        by_row = generator.normal(0.3, row_sd, size=60)
        arm, base = [], []
        for _ in range(3):
            noise = generator.normal(0.0, seed_sd) + generator.normal(0.0, 0.02, size=60)
            common = generator.normal(3.0, 1.0, size=60)
            arm.append((common + by_row + noise) * tokens)
            base.append(common * tokens)
        interval = paired_interval(arm, base, tokens)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.925 <= covered / studies <= 0.995


def test_more_seeds_give_a_narrower_interval() -> None:
    generator = np.random.default_rng(2)
    tokens = np.full(50, 10.0)

    def width(seeds: int) -> float:
        arm = [generator.normal(0, 1) * tokens * 0.1 for _ in range(seeds)]
        interval = paired_interval(arm, [np.zeros(50)] * seeds, tokens)
        return interval.high - interval.low

    assert np.mean([width(12) for _ in range(50)]) < np.mean([width(3) for _ in range(50)]) / 2
