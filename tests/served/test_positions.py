"""The one form of scored text, against a naive reference in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillab.teachers.served.errors import WrongAnswer
from distillab.teachers.served.pace import retry_after_s
from distillab.teachers.served.positions import Position, joined, top_k


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.data())
def test_any_distribution_gives_its_top_k_its_tail_and_its_actual_token(
    seed: int, width: int, data: st.DataObject
) -> None:
    k, actual = data.draw(st.integers(1, width)), data.draw(st.integers(0, width - 1))
    random = np.random.default_rng(seed)
    prob = random.dirichlet(np.full(width, 0.5)) + 1e-9
    prob /= prob.sum()
    best = sorted(range(width), key=lambda id_: -prob[id_])[:k]
    shown = list(random.permutation(best))
    got = top_k(
        [Position(shown, [math.log(prob[id_]) for id_ in shown], actual, math.log(prob[actual]))],
        k=k,
        width=width,
        where="",
    )
    assert got.ids[0].tolist() == best
    np.testing.assert_allclose(np.exp(got.logp[0]), [prob[id_] for id_ in best], rtol=1e-5)
    np.testing.assert_allclose(np.exp(got.tail_logmass[0]), sum(prob) - sum(prob[best]), atol=1e-6)
    np.testing.assert_allclose(np.exp(got.actual_logp[0]), prob[actual], rtol=1e-5)


def test_the_tail_holds_at_least_the_actual_token_outside_of_the_entries() -> None:
    """Rounding of the server makes the entries' mass one."""
    got = top_k([Position([4, 2], [0.0, -20.0], 7, -21.0)], k=2, width=9, where="")
    assert got.tail_logmass[0] == pytest.approx(-21.0)
    twice = joined([got, got])
    assert twice.ids.shape == (2, 2) and twice.actual_logp.tolist() == [-21.0, -21.0]


@pytest.mark.parametrize(
    ("position", "rule"),
    [
        (Position([1], [-1.0], 1, -1.0), "another number"),
        (Position([1, 1], [-1.0, -2.0], 1, -1.0), "twice"),
        (Position([1, 9], [-1.0, -2.0], 1, -1.0), "beyond the vocabulary"),
        (Position([1, 2], [-1.0, math.nan], 1, -1.0), "no log-probability"),
        (Position([1, 2], [-1.0, -math.inf], 1, -1.0), "no log-probability"),
        (Position([1, 2], [-1.0, -2.0], 3, math.nan), "no log-probability"),
        (Position([1, 2], [-0.5, -0.6], 1, -0.5), "more probability than one"),
        (Position([1, 2], [-1.0, -2.0], 1, -1.5), "contradicts itself"),
        (Position([1, 2], [-1.0, -2.0], 3, -1.5), "contradicts itself"),
    ],
)
def test_what_is_no_distribution_is_refused(position: Position, rule: str) -> None:
    with pytest.raises(WrongAnswer, match=rule):
        top_k([Position([0, 1], [-1.0, -2.0], 0, -1.0), position], k=2, width=9, where="row")


def test_a_retry_after_can_be_a_date() -> None:
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", now_s=1445412470.0) == 10.0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", now_s=1445412490.0) == 0.0
    assert retry_after_s("nan") is None
