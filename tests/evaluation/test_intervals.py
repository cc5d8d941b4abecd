"""Intervals: against simulation, and at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.intervals import HIGHEST, LOWEST, Cell, coverage, false_claims
from scipy.stats import t as student_t

from distillab.evaluation.intervals import (
    _SEED_SHARE,
    _SEED_SHARE_OF_MORE,
    adjusted,
    p_value,
    paired_interval,
    recovered_gap,
    spread,
)
from distillab.records import Interval, Recovered


def test_mean_is_the_difference_of_nats_over_tokens() -> None:
    tokens = np.array([2.0, 4.0])
    interval = paired_interval([np.array([1.0, 2.0])], [np.array([2.0, 4.0])], tokens)
    assert interval.mean == pytest.approx(-3.0 / 6.0)


def test_equal_arms_give_a_point() -> None:
    values = [np.arange(10.0), np.arange(10.0) + 2]
    interval = paired_interval(values, values, np.ones(10))
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_few_rows_say_nothing_of_others(rows: int) -> None:
    arm, base = np.arange(rows) + 1.0, np.arange(rows) * 1.1
    for seeds in (1, 3):
        interval = paired_interval([arm] * seeds, [base] * seeds, np.ones(rows))
        assert (interval.low, interval.high, interval.p, interval.outcome) == (None, None, 1.0, "open")
        assert (interval.rows, interval.seeds) == (rows, seeds)
        assert not adjusted([interval])[0].excludes_zero


def test_ten_rows_have_an_interval_that_knows_its_n() -> None:
    interval = paired_interval([np.arange(10.0)], [np.arange(10.0) + np.arange(10) % 2], np.ones(10))
    assert interval.low is not None and interval.low < interval.mean
    assert interval.measured_on == "n = 10 rows × 1 seed"


def test_swapping_the_sides_mirrors_the_interval() -> None:
    generator = np.random.default_rng(0)
    a, b = ([generator.normal(size=20) for _ in range(3)] for _ in range(2))
    tokens = np.full(20, 5.0)
    one, two = paired_interval(a, b, tokens), paired_interval(b, a, tokens)
    assert (one.mean, one.low, one.high) == pytest.approx((-two.mean, -two.high, -two.low))


@pytest.mark.parametrize(
    "cell",
    [
        # too narrow before: 88 to 93 %
        Cell(3, 50, "skewed", "seed"),
        Cell(3, 200, "normal", "seed"),
        Cell(5, 200, "skewed", "seed"),
        # too wide before: 99 %
        Cell(5, 50, "normal", "seed × row"),
        Cell(10, 50, "heavy", "seed × row"),
        Cell(3, 50, "outlying", "row"),
        Cell(10, 200, "skewed", "alike"),
    ],
)
def test_covers_the_truth_about_as_often_as_it_says(cell: Cell) -> None:
    assert LOWEST <= coverage(cell, studies=4000, seed=1) <= HIGHEST


def test_the_recovered_gap_by_hand() -> None:
    """SFT loses 3 nats per token, the teacher 1: an arm that loses 2.5 has gone a quarter of the way."""
    tokens = np.tile([2.0, 4.0], 10)
    sft, teacher = [3.0 * tokens] * 2, [1.0 * tokens] * 2
    assert recovered_gap([2.5 * tokens] * 2, sft, teacher, tokens) == Recovered(share=0.25, low=0.25, high=0.25)
    assert recovered_gap([3.5 * tokens] * 2, sft, teacher, tokens).share == -0.25
    with pytest.raises(ValueError, match="do not differ"):
        recovered_gap(sft, sft, sft, tokens)


def test_at_its_ends_the_arm_and_the_mixture_of_sft_and_teacher_just_differ() -> None:
    generator = np.random.default_rng(6)
    tokens = generator.integers(5, 40, size=40).astype(np.float64)
    sft, arm = ([(mean + generator.normal(0, 0.3, size=40)) * tokens for _ in range(3)] for mean in (3.0, 2.6))
    teacher = [(1.5 + generator.normal(0, 0.8, size=40)) * tokens] * 3
    found = recovered_gap(arm, sft, teacher, tokens)
    assert found.low < found.share < found.high
    for share in (found.low, found.high):
        mixture = [(1 - share) * base + share * goal for base, goal in zip(sft, teacher, strict=True)]
        interval = paired_interval(arm, mixture, tokens)
        assert min(abs(interval.low), abs(interval.high)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("gap", [0.5, 2.0])
def test_the_recovered_gap_covers_the_truth(gap: float) -> None:
    """True share 0.4; rows and seeds vary; where the teacher is hardly better than SFT, many studies have no share."""
    generator = np.random.default_rng(7)
    tokens, covered = np.full(30, 10.0), []
    for _ in range(100):
        easy, seeds = generator.normal(0, 0.5, size=30), generator.normal(0, 0.05, size=(2, 3))
        sft = [(3 + easy + s + generator.normal(0, 0.2, size=30)) * tokens for s in seeds[0]]
        arm = [(3 - 0.4 * gap + easy + s + generator.normal(0, 0.2, size=30)) * tokens for s in seeds[1]]
        teacher = [(3 - gap + generator.normal(0, 0.5, size=30)) * tokens] * 3
        if paired_interval(teacher, sft, tokens).outcome == "better":
            found = recovered_gap(arm, sft, teacher, tokens)
            covered.append(found.low <= 0.4 <= found.high)
    assert len(covered) > 80 and np.mean(covered) > 0.93


def test_variances_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(3)
    seeds, rows = 4, 6
    values = generator.normal(size=(seeds, rows)) + generator.normal(size=(seeds, 1)) + 3 * generator.normal(size=rows)
    tokens = generator.integers(2, 9, size=rows).astype(np.float64)
    found = spread((values * tokens)[None], tokens[None])
    d = [[values[s][r] * tokens[r] for r in range(rows)] for s in range(seeds)]
    total = sum(tokens)
    by_seed = [sum(d[s]) / total for s in range(seeds)]
    mean = sum(by_seed) / seeds
    over_seeds = sum((m - mean) ** 2 for m in by_seed) / (seeds - 1) / seeds
    columns = [sum(d[s][r] for s in range(seeds)) / seeds for r in range(rows)]
    over_rows = sum((columns[r] - mean * tokens[r]) ** 2 for r in range(rows)) * rows / (rows - 1) / total**2
    left = sum((d[s][r] - columns[r] - (by_seed[s] - mean) * tokens[r]) ** 2 for s in range(seeds) for r in range(rows))
    both = left / (seeds - 1) / seeds * rows / (rows - 1) / total**2
    assert float(found.mean[0]) == pytest.approx(mean)
    assert float(found.by_seed[0]) == pytest.approx(over_seeds)
    assert float(found.by_row[0]) == pytest.approx(over_rows - both)
    assert seeds not in _SEED_SHARE
    t = student_t.isf(0.05 * _SEED_SHARE_OF_MORE / 2, seeds - 1)
    expected = math.sqrt(t**2 * over_seeds + student_t.isf(0.025, rows - 1) ** 2 * (over_rows - both))
    assert float(found.half_width(0.05)[0]) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_never_narrower_than_t_over_seeds(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    differences = generator.normal(size=(200, seeds, 30))
    tokens = generator.integers(5, 60, size=(200, 30)).astype(np.float64)
    found = spread(differences * tokens[:, None], tokens)
    means = (differences * tokens[:, None]).sum(axis=2) / tokens.sum(axis=1)[:, None]
    alone = student_t.ppf(0.975, seeds - 1) * means.std(axis=1, ddof=1) / math.sqrt(seeds)
    assert (found.half_width(0.05) >= alone * (1 - 1e-12)).all()


def test_the_p_value_is_where_the_interval_touches_zero() -> None:
    generator = np.random.default_rng(4)
    tokens = generator.integers(5, 40, size=40).astype(np.float64)
    arm = [(generator.normal(0.1, 0.4, size=40) + generator.normal(0, 0.02)) * tokens for _ in range(3)]
    base = [np.zeros(40)] * 3
    interval = paired_interval(arm, base, tokens)
    assert interval.p is not None and 0 < interval.p < 1
    touching = paired_interval(arm, base, tokens, confidence=1 - interval.p)
    assert min(abs(touching.low), abs(touching.high)) == pytest.approx(0.0, abs=1e-9)
    assert (interval.p < 0.05) == (interval.outcome != "open")
    assert paired_interval(arm, arm, tokens).p == 1.0
    one = np.ones(40)
    assert paired_interval([one * tokens] * 3, [0 * tokens] * 3, tokens).p == pytest.approx(0.0, abs=1e-11)


def test_several_arms_are_adjusted_by_holm() -> None:
    given = [Interval(mean=-1.0, low=-2.0, high=-0.1, p=p) for p in (0.02, 0.001, 0.04, 0.03)]
    found = adjusted(given)
    # by hand: 4 · 0.001, 3 · 0.02, 2 · 0.03, then 0.04 is not below what stands before it
    assert [interval.adjusted_p for interval in found] == pytest.approx([0.06, 0.004, 0.06, 0.06])
    assert [interval.outcome for interval in found] == ["open", "better", "open", "open"]
    assert {interval.comparisons for interval in found} == {4}
    alone = adjusted(given[:1])[0]
    assert (alone.adjusted_p, alone.outcome) == (0.02, "better")


def test_arms_like_the_baseline_are_rarely_taken_for_others() -> None:
    cell = Cell(3, 50, "normal", "row")
    assert false_claims(cell, arms=6, studies=4000, seed=2) <= 0.05
    # the first step of Holm, by the p-values and by the intervals
    tokens = np.full((1, 50), 10.0)
    generator = np.random.default_rng(5)
    for _ in range(20):
        found = [spread(generator.normal(size=(1, 3, 50)), tokens) for _ in range(6)]
        intervals = adjusted([Interval(mean=float(f.mean[0]), low=0, high=0, p=p_value(f)) for f in found])
        smallest = min(interval.adjusted_p for interval in intervals if interval.adjusted_p is not None)
        wrong = any(abs(f.mean[0]) > f.half_width(0.05 / 6)[0] for f in found)
        assert (smallest < 0.05) == wrong


def test_more_seeds_give_a_narrower_interval() -> None:
    generator = np.random.default_rng(2)
    tokens = np.full(50, 10.0)

    def width(seeds: int) -> float:
        arm = [generator.normal(0, 1) * tokens * 0.1 for _ in range(seeds)]
        interval = paired_interval(arm, [np.zeros(50)] * seeds, tokens)
        return interval.high - interval.low

    assert np.mean([width(12) for _ in range(50)]) < np.mean([width(3) for _ in range(50)]) / 2
