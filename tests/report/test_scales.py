"""Axes keep order and stay inside; ticks are inside and round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillab.report.scales import broken_axis, plain_axis, tick_text

values = st.lists(st.floats(0.01, 1000), min_size=1, max_size=8)


@given(values, values)
def test_broken_axis_keeps_the_order_and_stays_inside(near: list[float], far: list[float]) -> None:
    axis = broken_axis(near, far, 100, 500, far_share=0.3)
    places = [axis.place(value) for value in sorted(near + far)]
    assert places == sorted(places)
    assert all(100 <= place <= 500 for place in places)
    for tick in axis.ticks(8):
        assert any(part.low - 1e-9 <= tick <= part.high + 1e-9 for part in axis.parts)
    # No value that has to be seen falls into the gap.
    for value in near + far:
        assert any(part.low <= value <= part.high for part in axis.parts)


def test_far_values_do_not_squeeze_the_near_ones() -> None:
    near = [1.65, 1.75]
    plain = plain_axis([*near, 6.2], 0, 100)
    broken = broken_axis(near, [6.2], 0, 100, far_share=0.3)
    assert broken.broken
    assert not plain.broken
    assert broken.place(1.75) - broken.place(1.65) > 20 * (plain.place(1.75) - plain.place(1.65)) / 2
    assert not broken_axis(near, [1.8], 0, 100, far_share=0.3).broken


@given(st.floats(0.5, 20))
def test_one_value_gets_ticks_that_read_differently(value: float) -> None:
    texts = [tick_text(tick) for tick in plain_axis([value], 0, 100).ticks(6)]
    assert len(texts) == len(set(texts)) >= 2


def test_log_axis_gives_equal_ratios_equal_lengths() -> None:
    axis = plain_axis([1.0, 16.0], 0, 100, log_from_ratio=4)
    assert axis.place(4) - axis.place(1) == pytest.approx(axis.place(16) - axis.place(4))
    assert not plain_axis([0.0, 16.0], 0, 100, log_from_ratio=4).parts[0].log


@given(st.floats(0.001, 1e6), st.floats(1.0001, 1e3), st.booleans())
def test_ticks_are_few_inside_and_increasing(low: float, ratio: float, log: bool) -> None:
    axis = plain_axis([low, low * ratio], 0, 100, log_from_ratio=1 if log else math.inf)
    ticks = axis.ticks(6)
    assert 1 <= len(ticks) <= 14
    assert list(ticks) == sorted(set(ticks))
    assert all(tick_text(tick) for tick in ticks)
