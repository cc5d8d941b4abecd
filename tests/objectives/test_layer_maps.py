"""Which layer learns from which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillab.errors import ConfigError
from distillab.objectives.layer_maps import layer_pairs


def test_named_layer_maps() -> None:
    assert layer_pairs("last", student_blocks=3, teacher_blocks=7) == ((3, 7),)
    assert layer_pairs("embeddings", student_blocks=3, teacher_blocks=7) == ((0, 0),)
    assert layer_pairs("uniform", student_blocks=3, teacher_blocks=12) == ((1, 4), (2, 8), (3, 12))
    assert layer_pairs("uniform", student_blocks=2, teacher_blocks=5) == ((1, 3), (2, 5))  # 2.5 is rounded up
    assert layer_pairs("uniform", student_blocks=5, teacher_blocks=2) == ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2))
    assert layer_pairs(((0, 0), (3, 5)), student_blocks=3, teacher_blocks=7) == ((0, 0), (3, 5))


@given(st.integers(1, 100), st.integers(1, 100))
def test_uniform_maps_every_block_in_order_and_last_to_last(students: int, teachers: int) -> None:
    pairs = layer_pairs("uniform", student_blocks=students, teacher_blocks=teachers)
    assert [pair[0] for pair in pairs] == list(range(1, students + 1))
    targets = [pair[1] for pair in pairs]
    assert targets == sorted(targets) and targets[0] >= 1 and targets[-1] == teachers
    if students <= teachers:
        assert len(set(targets)) == students
    assert all(t == 1 or abs(t - s * teachers / students) <= 0.5 for s, t in pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (((1, 8),), r"\[1, 8\]: the teacher has the layers 0 \(embeddings\) to 7, not 8"),
        (((4, 1), (1, 1)), r"\[4, 1\]: the student has the layers 0 \(embeddings\) to 3, not 4"),
        (((-1, 1),), "not -1"),
        (((1, 1), (1, 1)), "given twice"),
        ((), "at least one pair"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_the_sizes(pairs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        layer_pairs(pairs, student_blocks=3, teacher_blocks=7)
    assert error.value.where and error.value.fix
