"""The projector: when there is one, how it starts, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distillab.errors import ConfigError, NumericsError, ShapeError
from distillab.models.structure import ModelShape
from distillab.objectives.hidden_states import HiddenStates
from distillab.objectives.projector import least_squares
from tests.objectives.samples import STUDENT, TEACHER, D, E, both_sides, hidden_term, sample_batch


def test_projector_is_there_where_it_is_needed() -> None:
    same = ModelShape(4, D, 2, 2, 3)
    assert hidden_term("mse", teacher=same).projector is None
    assert hidden_term("mse", teacher=same, projector="none").projector is None
    assert hidden_term("cka").projector is None and hidden_term("cka", projector="none").projector is None
    for term in (
        hidden_term("mse", layers="uniform"),
        hidden_term("cosine", teacher=same, projector="linear", layers="uniform"),
    ):
        assert term.projector is not None
        shapes = {name: tuple(p.shape) for name, p in term.projector.named_parameters()}
        width = E if term.settings.loss == "mse" else D
        assert shapes == {"s1_t2.weight": (width, D), "s2_t4.weight": (width, D)}


def test_projector_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="different widths") as error:
        hidden_term("mse", projector="none")
    assert error.value.facts == (f"student width {D}", f"teacher width {E}") and error.value.fix
    with pytest.raises(ConfigError, match="learning rate would have no effect"):
        hidden_term("cka", projector_learning_rate=1e-3)
    with pytest.raises(ConfigError, match="learning rate would have no effect"):
        hidden_term("mse", teacher=ModelShape(4, D, 2, 2, 3), projector_learning_rate=1e-3)
    assert hidden_term("mse", projector_learning_rate=1e-3).projector_learning_rate == 1e-3


def _weights(term: HiddenStates) -> list[Tensor]:
    assert term.projector is not None
    return [p.detach().clone() for p in term.projector.parameters()]


@pytest.mark.parametrize("wide", ["teacher", "student"])
def test_orthogonal_start_keeps_angles_follows_the_seed_and_is_left_alone(wide: str) -> None:
    shapes = {"student": STUDENT, "teacher": TEACHER} if wide == "teacher" else {"student": TEACHER, "teacher": STUDENT}
    term = hidden_term("mse", projector_init="orthogonal", **shapes)
    weight = _weights(term)[0]
    product = weight.T @ weight if wide == "teacher" else weight @ weight.T
    torch.testing.assert_close(product, torch.eye(D), atol=1e-5, rtol=0)
    assert torch.equal(weight, _weights(hidden_term("mse", projector_init="orthogonal", **shapes))[0])
    torch.manual_seed(8)
    other = HiddenStates(term.settings, **shapes)
    assert not torch.equal(weight, _weights(other)[0])
    if wide == "teacher":
        batch = sample_batch([[0]])
        term.initialise(*both_sides(term, batch), batch)
        assert torch.equal(weight, _weights(term)[0])


@pytest.mark.parametrize("loss", ["mse", "cosine"])
@pytest.mark.parametrize("samples", [[[1]], [[0], [2], [4]]], ids=["fewer positions than width", "more"])
def test_least_squares_start_is_no_worse_on_its_batch_than_an_orthogonal_one(loss: str, samples: Any) -> None:
    batch = sample_batch(samples)
    values = {}
    for start in ("orthogonal", "least_squares"):
        term = hidden_term(loss, projector_init=start, layers="uniform")
        sides = both_sides(term, batch)
        term.initialise(*sides, batch)
        values[start] = term.total(*sides, batch).item() / term.count(batch)
    assert values["least_squares"] < 0.7 * values["orthogonal"]


def test_least_squares_finds_a_linear_teacher_and_solves_its_own_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(400, D, generator=generator)
    truth = torch.randn(E, D, generator=generator)
    found = least_squares(student_ND=student, teacher_NE=student @ truth.T)
    torch.testing.assert_close(found, truth, atol=0.02, rtol=0.02)
    # the ridge's objective cannot be lowered: its gradient is zero
    noisy = (student @ truth.T + torch.randn(400, E, generator=generator)).double()
    weight = least_squares(student_ND=student, teacher_NE=noisy).double().requires_grad_()
    ridge = 0.01 * student.double().pow(2).sum() / D
    objective = (student.double() @ weight.T - noisy).pow(2).sum() + ridge * weight.pow(2).sum()
    gradient = torch.autograd.grad(objective, weight)[0]
    assert gradient.abs().max() < 1e-5 * objective


def test_a_token_with_huge_states_does_not_decide_the_fit() -> None:
    batch = sample_batch([[0], [2], [4]])
    term = hidden_term("mse")
    student, teacher = both_sides(term, batch)
    term.initialise(student, teacher, batch)
    expected = _weights(term)[0]
    for states in (*student.hidden.values(), *teacher.hidden.values()):
        states[:, 3] *= 1000.0
    term.initialise(student, teacher, batch)
    torch.testing.assert_close(_weights(term)[0], expected)


def test_a_projector_that_cannot_be_fitted_is_an_error() -> None:
    term, batch = hidden_term("mse"), sample_batch([[3]])
    with pytest.raises(NumericsError, match="cannot be fitted") as error:
        term.initialise(*both_sides(term, batch), batch)
    assert "0 positions" in error.value.facts and error.value.fix
    with pytest.raises(NumericsError, match="cannot be fitted"):
        least_squares(student_ND=torch.zeros(5, 2), teacher_NE=torch.ones(5, 2))
    with pytest.raises(NumericsError, match="cannot be fitted"):
        least_squares(student_ND=torch.ones(5, 2), teacher_NE=torch.full((5, 2), math.nan))
    with pytest.raises(ShapeError, match="same positions"):
        least_squares(student_ND=torch.ones(5, 2), teacher_NE=torch.ones(6, 2))
