"""Every divergence passes this suite."""

from __future__ import annotations

import inspect
import math
import random
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import distillab.divergences as divergences
from distillab.config.term_base import Divergence
from distillab.divergences import divergence
from distillab.divergences.by_name import BY_NAME
from distillab.errors import ConfigError, ShapeError
from tests.divergences.members import MEMBERS, Member, distributions, each_member, head_share, logp, value

Pair = tuple[list[float], list[float]]


def test_recipes_package_table_and_suite_name_the_same_divergences() -> None:
    exported = {
        name
        for name in divergences.__all__
        if {"student_logp", "teacher_logp"} <= set(inspect.signature(getattr(divergences, name)).parameters)
    }
    assert set(get_args(Divergence)) == set(BY_NAME) == exported == {member.name for member in MEMBERS}
    assert all(function is getattr(divergences, name) for name, function in BY_NAME.items())


@pytest.mark.parametrize(
    ("name", "parameters", "seen"),
    [
        ("forward", {}, "forward_kl"),
        ("forward_kl", {"skew": 0.1}, "its own: none"),
        ("alpha_beta", {"alpha": 0.1}, "its own: alpha, beta"),
        ("adaptive_kl", {}, "its own: head_mass"),
    ],
)
def test_an_unknown_name_or_parameter_is_refused(name: str, parameters: dict[str, float], seen: str) -> None:
    with pytest.raises(ConfigError) as error:
        divergence(name, parameters)
    assert seen in str(error.value)


@each_member
@settings(max_examples=25)
@given(pair=distributions())
def test_equals_the_naive_reference(member: Member, pair: Pair) -> None:
    assert value(member, *pair) == pytest.approx(member.reference(*pair), rel=1e-9, abs=1e-10)


@each_member
@settings(max_examples=25)
@given(pair=distributions())
def test_is_not_negative_and_zero_only_for_equal_distributions(member: Member, pair: Pair) -> None:
    p, q = pair
    assert value(member, p, p) == pytest.approx(0.0, abs=1e-12)
    assert value(member, p, q) >= -1e-12
    if max(abs(a - b) for a, b in zip(p, q, strict=True)) > 0.05:
        assert value(member, p, q) > 1e-5


@each_member
@settings(max_examples=25)
@given(pair=distributions(), order=st.randoms(use_true_random=False))
def test_a_common_permutation_of_the_vocabulary_changes_nothing(
    member: Member, pair: Pair, order: random.Random
) -> None:
    p, q = pair
    indices = list(range(len(p)))
    order.shuffle(indices)
    permuted = value(member, [p[i] for i in indices], [q[i] for i in indices])
    assert permuted == pytest.approx(value(member, p, q), rel=1e-11, abs=1e-12)


@each_member
def test_a_permutation_of_one_side_alone_changes_the_value(member: Member) -> None:
    p, q = [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]
    assert value(member, p[::-1], q) > 3 * value(member, p, q)


@each_member
@pytest.mark.parametrize("teacher_lacks_a_token", [False, True])
def test_gradient_is_the_numerical_one(member: Member, teacher_lacks_a_token: bool) -> None:
    if teacher_lacks_a_token and not member.without_teacher:
        pytest.skip("infinite there")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher_logits = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    if teacher_lacks_a_token:
        teacher_logits[:, 2] = -math.inf
    teacher = teacher_logits.log_softmax(-1)

    def of(student_logits: torch.Tensor) -> torch.Tensor:
        return member(student_logp=student_logits.log_softmax(-1), teacher_logp=teacher)

    # free: not through a softmax, in which a slope that is too large by c·q for any c would vanish
    free = logits.detach().log_softmax(-1).requires_grad_()
    if member.name != "adaptive_kl":
        assert torch.autograd.gradcheck(of, (logits,))
        assert torch.autograd.gradcheck(lambda student: member(student_logp=student, teacher_logp=teacher), (free,))
        return
    # its weights are constants for the gradient, so what it must equal is a fixed sum of both KLs
    rows = (side.exp().tolist() for side in (teacher, logits.detach().log_softmax(-1)))
    shares = [head_share(p, q, member.parameters["head_mass"]) for p, q in zip(*rows, strict=True)]
    weight = torch.tensor(shares, dtype=torch.float64)
    forward, reverse = (
        divergence(name, {})(student_logp=free, teacher_logp=teacher) for name in ("forward_kl", "reverse_kl")
    )
    expected = torch.autograd.grad((weight * forward + (1 - weight) * reverse).sum(), free)
    found = torch.autograd.grad(member(student_logp=free, teacher_logp=teacher).sum(), free)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@each_member
def test_a_graph_may_be_run_back_through_twice_and_the_inputs_stay(member: Member) -> None:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(3, 6, generator=generator).log_softmax(-1).requires_grad_()
    teacher = torch.randn(3, 6, generator=generator).log_softmax(-1)
    before = student.detach().clone(), teacher.clone()
    total = member(student_logp=student, teacher_logp=teacher).sum()
    first = torch.autograd.grad(total, student, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, student), first, atol=0, rtol=0)
    torch.testing.assert_close((student.detach(), teacher), before, atol=0, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(member(student_logp=student, teacher_logp=teacher).sum(), total.detach())


@each_member
def test_a_token_without_mass_on_both_sides_is_as_if_it_were_not_there(member: Member) -> None:
    logits = torch.tensor([[0.3, -0.2, -math.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    shorter = logits.detach()[:, [0, 1, 3]].requires_grad_()
    found = member(student_logp=logits.log_softmax(-1), teacher_logp=logp([0.3, 0.6, 0.0, 0.1]))
    expected = member(student_logp=shorter.log_softmax(-1), teacher_logp=logp([0.3, 0.6, 0.1]))
    (found_gradient,) = torch.autograd.grad(found, logits)
    (expected_gradient,) = torch.autograd.grad(expected, shorter)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-13)
    torch.testing.assert_close(found_gradient[:, [0, 1, 3]], expected_gradient, atol=1e-14, rtol=1e-13)
    assert found_gradient[0, 2] == 0


@each_member
@pytest.mark.parametrize("lacking", ["teacher", "student"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_without_mass_on_one_side_is_infinite_or_finite_as_it_must_be(
    member: Member, lacking: str, dtype: torch.dtype
) -> None:
    p, q = [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]
    (p if lacking == "teacher" else q)[:] = [0.0, 0.5, 0.5]
    logits = torch.tensor([q], dtype=torch.float64).log().to(dtype).requires_grad_()
    found = member(student_logp=logits.log_softmax(-1), teacher_logp=logp(p, dtype))
    if not (member.without_teacher if lacking == "teacher" else member.without_student):
        assert found.item() == math.inf
        return
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == pytest.approx(member.reference(p, q), rel=1e-5 if dtype == torch.float32 else 1e-10)
    assert bool(torch.isfinite(gradient).all())
    if lacking == "student":
        assert gradient[0, 0] == 0


@each_member
def test_probabilities_that_underflow_leave_value_and_gradient_finite(member: Member) -> None:
    # e^-95 and e^-104 are among float32's last steps to zero, e^-120 is beyond
    logits = torch.tensor([[0.0, -95.0, -104.0, -120.0, -1.0]], requires_grad=True)
    for teacher in ([-1.0, -120.0, -95.0, -104.0, 0.0], [0.0, -104.0, -104.0, -104.0, -0.5]):
        teacher_logp = torch.tensor([teacher]).log_softmax(-1)
        found = member(student_logp=logits.log_softmax(-1), teacher_logp=teacher_logp)
        (gradient,) = torch.autograd.grad(found, logits)
        exact = member(student_logp=logits.detach().double().log_softmax(-1), teacher_logp=teacher_logp.double())
        if exact.item() > torch.finfo(torch.float32).max:  # some negative powers
            assert found.item() == math.inf
            continue
        assert found.item() == pytest.approx(exact.item(), rel=1e-4) and bool(torch.isfinite(gradient).all())


@each_member
@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("wrong", [[math.nan, -1.0, -1.0], [math.nan] * 3, [math.inf, -1.0, -1.0]])
def test_what_is_no_number_is_not_hidden(member: Member, side: str, wrong: list[float]) -> None:
    good, bad = torch.tensor([[-1.0, -1.2, -0.9]] * 2), torch.tensor([wrong, [-1.0, -1.2, -0.9]])
    student, teacher = (good, bad) if side == "teacher" else (bad, good)
    found = member(student_logp=student, teacher_logp=teacher)
    assert bool(found[0].isnan()) and not bool(found[1].isnan())


@each_member
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_float32_whatever_comes_in(member: Member, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 300, generator=generator).log_softmax(-1).to(dtype).requires_grad_()
    teacher = torch.randn(4, 300, generator=generator).log_softmax(-1).to(dtype)
    found = member(student_logp=student, teacher_logp=teacher)
    assert found.dtype == torch.float32 and found.shape == (4,)
    exact = member(student_logp=student.double(), teacher_logp=teacher.double())
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=2e-6)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.dtype == dtype


@each_member
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((1, 2, 3), (1, 2, 3))])
def test_tensors_that_do_not_fit_are_refused_with_both_shapes(
    member: Member, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(ShapeError) as error:
        member(student_logp=torch.zeros(shapes[0]), teacher_logp=torch.zeros(shapes[1]))
    assert str(shapes[0]) in str(error.value) and str(shapes[1]) in str(error.value)


@each_member
def test_a_gradient_with_respect_to_the_teacher_is_refused(member: Member) -> None:
    teacher = logp([0.5, 0.5]).requires_grad_()
    with pytest.raises(ValueError, match="detach teacher_logp"):
        member(student_logp=logp([0.5, 0.5]), teacher_logp=teacher)
    with torch.no_grad():
        member(student_logp=logp([0.5, 0.5]), teacher_logp=teacher)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("jensen_shannon", "teacher_weight"),
        ("skewed_forward_kl", "skew"),
        ("skewed_reverse_kl", "skew"),
        ("adaptive_kl", "head_mass"),
    ],
)
def test_shares_outside_of_zero_and_one_are_refused(name: str, parameter: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        value(divergence(name, {parameter: wrong}), [1.0], [1.0])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("parameter", ["alpha", "beta"])
def test_powers_that_are_no_numbers_are_refused(parameter: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        value(divergence("alpha_beta", {"alpha": 0.5, "beta": 0.5, parameter: wrong}), [1.0], [1.0])


@pytest.mark.parametrize("wrong", [(1e-7, 0.0), (-1e-9, 1e-8)])
def test_powers_that_leave_no_digits_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        value(divergence("alpha_beta", {"alpha": wrong[0], "beta": wrong[1]}), [1.0], [1.0])
