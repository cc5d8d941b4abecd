"""The two ways of sorting give one distance and one gradient; what is no number stays none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.objectives.sorted_probabilities import sorted_distance


def _naive(q: list[float], p: list[float]) -> tuple[float, list[float]]:
    """The distance of one row, and its derivative by each q where no two are equal."""
    width = max(len(q), len(p))
    theirs = sorted(p + [0.0] * (width - len(p)), reverse=True)
    order = sorted(range(len(q)), key=lambda v: -q[v])
    slopes, total = [0.0] * len(q), 0.0
    for rank in range(width):
        mine = q[order[rank]] if rank < len(q) else 0.0
        total += abs(mine - theirs[rank])
        if rank < len(q):
            slopes[order[rank]] = float((mine > theirs[rank]) - (mine < theirs[rank]))
    return total, slopes


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    v=st.integers(1, 9),
    w=st.integers(1, 9),
    scale=st.floats(0.1, 60.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_value_and_gradient_are_the_naive_ones(seed: int, v: int, w: int, scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, p = ((scale * torch.randn(3, n, generator=generator, dtype=torch.float64)).softmax(-1).to(dtype) for n in (v, w))
    leaf = q.clone().requires_grad_()
    found = sorted_distance(leaf, p)
    (gradient,) = torch.autograd.grad((found * torch.tensor([1.0, 2.0, -3.0], dtype=dtype)).sum(), leaf)
    for row, factor in enumerate((1.0, 2.0, -3.0)):
        total, slopes = _naive(q[row].tolist(), p[row].tolist())
        assert float(found[row].detach()) == pytest.approx(total, abs=1e-6)
        if len(set(q[row].tolist())) == v:  # those of equal ones may stand in either order
            assert gradient[row].tolist() == [factor * slope for slope in slopes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_probabilities_share_their_ranks(dtype: torch.dtype) -> None:
    q = torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0]], dtype=dtype, requires_grad=True)
    p = torch.tensor([[0.5, 0.5]], dtype=dtype)
    found = sorted_distance(q, p)
    (gradient,) = torch.autograd.grad(found, q)
    assert float(found.detach()) == pytest.approx(1.0)
    assert sorted(gradient[0, :4].tolist()) == [-1.0, -1.0, 1.0, 1.0] and float(gradient[0, 4]) == 0.0


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_is_no_number_stays_none(side: str) -> None:
    q, p = (torch.full((2, 3), 1 / 3) for _ in range(2))
    broken: Tensor = q if side == "student" else p
    broken[1, 1] = torch.nan
    found = sorted_distance(q, p)
    assert float(found[0]) == pytest.approx(0.0) and bool(found[1].isnan())


def test_a_view_of_more_is_sorted_as_what_it_shows() -> None:
    wide = torch.rand(4, 7, generator=torch.Generator().manual_seed(0))
    q, p = wide[::2, 1:5], wide[1::2, :3]
    torch.testing.assert_close(sorted_distance(q, p), sorted_distance(q.contiguous(), p.contiguous()))
    assert sorted_distance(wide[:0], wide[:0]).shape == (0,)
