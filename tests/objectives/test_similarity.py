"""Losses between hidden states: bounds, invariances, gradients, and what has no structure."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distillab.errors import ShapeError
from distillab.objectives.similarity import cosine_distance, debiased_cka, mean_squared_error, unit_rms
from tests.objectives.naive_similarity import naive_cka

D, E = 6, 9


@given(st.integers(0, 10_000), st.integers(4, 12), st.floats(0.01, 100.0), st.floats(-50, 50))
def test_cka_is_bounded_and_blind_to_rotation_shift_and_scale(seed: int, n: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, D, generator=generator, dtype=torch.float64)
    teacher = torch.randn(n, E, generator=generator, dtype=torch.float64)
    value = debiased_cka(student_nD=student, teacher_nE=teacher)
    assert -1 - 1e-9 <= value.item() <= 1 + 1e-9
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    moved = scale * (student @ rotation) + shift
    torch.testing.assert_close(debiased_cka(student_nD=moved, teacher_nE=teacher), value, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(debiased_cka(student_nD=teacher, teacher_nE=student), value)


def test_cka_of_independent_states_is_around_zero_however_few_there_are() -> None:
    """The plain estimate is not: with more dimensions than positions it is near 1."""
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [
            debiased_cka(
                student_nD=torch.randn(8, 64, generator=generator), teacher_nE=torch.randn(8, 64, generator=generator)
            )
            for _ in range(400)
        ]
    )
    assert abs(values.mean().item()) < 3 * values.std().item() / math.sqrt(400)
    assert values.min() < 0


@pytest.mark.parametrize(
    "flat",
    [torch.linspace(0.1, 1000.3, D).expand(7, D), torch.zeros(6, D), torch.eye(6, D)[:, :1] * 5 + 1 / 3],
    ids=["all alike", "all zero", "all but one alike"],
)
def test_cka_of_states_without_structure_is_zero_and_without_gradient(flat: Tensor) -> None:
    other = torch.randn(len(flat), E, generator=torch.Generator().manual_seed(0), requires_grad=True)
    flat = flat.clone().requires_grad_()
    value = debiased_cka(student_nD=flat, teacher_nE=other)
    value.backward()
    assert value.item() == 0.0
    for tensor in (flat, other):
        assert tensor.grad is not None and not tensor.grad.any()


def test_cka_keeps_small_differences_under_a_large_common_part() -> None:
    """Pretrained models have dimensions whose values are thousands of times the others', alike at every position."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(10, D, generator=generator)
    teacher = student @ torch.randn(D, E, generator=generator) + 0.1 * torch.randn(10, E, generator=generator)
    outlier = teacher.clone()
    outlier[:, 0] += 10_000.0
    expected = naive_cka(student.double().tolist(), teacher.double().tolist())
    assert debiased_cka(student_nD=student, teacher_nE=outlier).item() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1.0, 1e6])
def test_unit_size(size: float) -> None:
    states = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
    found = unit_rms(size * states)
    torch.testing.assert_close(found, unit_rms(states))
    torch.testing.assert_close(found.pow(2).mean(-1), torch.ones(5))
    assert cosine_distance(student_ND=states, teacher_ND=size * states).abs().max() < 1e-6


def test_states_of_length_zero_have_finite_gradients() -> None:
    """Embeddings of padding tokens are zero in many models."""
    zero, one = torch.zeros(1, D, requires_grad=True), torch.ones(1, D)
    assert unit_rms(zero).abs().max() == 0
    error = mean_squared_error(student_ND=unit_rms(zero), teacher_ND=unit_rms(one))
    distance = cosine_distance(student_ND=zero, teacher_ND=one)
    assert error.item() == distance.item() == 1.0
    (error + distance).sum().backward()
    assert zero.grad is not None and zero.grad.abs().max() <= 2


@pytest.mark.parametrize("loss", [mean_squared_error, cosine_distance])
def test_gradients_of_the_losses(loss: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, D, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, D, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: loss(student_ND=unit_rms(s), teacher_ND=teacher), student)
    assert torch.autograd.gradcheck(lambda s: debiased_cka(student_nD=s, teacher_nE=teacher), student)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="at least 4"):
        debiased_cka(student_nD=torch.ones(3, 2), teacher_nE=torch.ones(3, 2))
    with pytest.raises(ShapeError, match="same positions"):
        debiased_cka(student_nD=torch.ones(5, 2), teacher_nE=torch.ones(6, 2))
