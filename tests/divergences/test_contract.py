"""Every divergence passes this suite. The reference is a naive float64 loop that shares no code with the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import distillab.divergences as divergences
from distillab.divergences import forward_kl, jensen_shannon, reverse_kl
from distillab.errors import ShapeError

Divergence = Callable[..., Tensor]
WEIGHTS = (0.1, 0.5, 0.9)


def _kl(p: list[float], q: list[float]) -> float:
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += math.inf if b == 0 else a * (math.log(a) - math.log(b))
    return total


def _reference_jensen_shannon(p: list[float], q: list[float], w: float) -> float:
    mixture = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
    return w * _kl(p, mixture) + (1 - w) * _kl(q, mixture)


# name -> (divergence, reference over teacher p and student q)
MEMBERS: dict[str, tuple[Divergence, Callable[[list[float], list[float]], float]]] = {
    "forward_kl": (forward_kl, lambda p, q: _kl(p, q)),
    "reverse_kl": (reverse_kl, lambda p, q: _kl(q, p)),
    **{
        f"jensen_shannon_{w}": (
            partial(jensen_shannon, teacher_weight=w),
            partial(lambda p, q, w: _reference_jensen_shannon(p, q, w), w=w),
        )
        for w in WEIGHTS
    },
}
each_member = pytest.mark.parametrize("name", sorted(MEMBERS))


def test_no_member_is_missing_from_the_suite() -> None:
    assert {name.rsplit("_0", 1)[0] for name in MEMBERS} == set(divergences.__all__)


@st.composite
def distributions(draw: st.DrawFn, sizes: tuple[int, int] = (2, 7)) -> tuple[list[float], list[float]]:
    n = draw(st.integers(*sizes))
    weight = st.floats(0.01, 1.0)
    p, q = (draw(st.lists(weight, min_size=n, max_size=n)) for _ in range(2))
    return [x / sum(p) for x in p], [x / sum(q) for x in q]


def _logp(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).log().to(dtype)


@each_member
@given(pair=distributions())
def test_equals_the_naive_reference(name: str, pair: tuple[list[float], list[float]]) -> None:
    divergence, reference = MEMBERS[name]
    p, q = pair
    ours = divergence(student_logp=_logp(q), teacher_logp=_logp(p)).item()
    assert ours == pytest.approx(reference(p, q), abs=1e-12)


@each_member
@given(pair=distributions())
def test_is_not_negative_and_zero_only_for_equal_distributions(
    name: str, pair: tuple[list[float], list[float]]
) -> None:
    divergence, _ = MEMBERS[name]
    p, q = pair
    different = divergence(student_logp=_logp(q), teacher_logp=_logp(p)).item()
    same = divergence(student_logp=_logp(p), teacher_logp=_logp(p)).item()
    assert same == pytest.approx(0.0, abs=1e-12)
    assert different >= -1e-12
    if max(abs(a - b) for a, b in zip(p, q, strict=True)) > 0.05:
        assert different > 1e-5


@each_member
@given(pair=distributions(), order=st.randoms(use_true_random=False))
def test_a_common_permutation_of_the_vocabulary_changes_nothing(
    name: str, pair: tuple[list[float], list[float]], order: object
) -> None:
    divergence, _ = MEMBERS[name]
    p, q = pair
    indices = list(range(len(p)))
    order.shuffle(indices)  # type: ignore[attr-defined]
    straight = divergence(student_logp=_logp(q), teacher_logp=_logp(p))
    permuted = divergence(student_logp=_logp([q[i] for i in indices]), teacher_logp=_logp([p[i] for i in indices]))
    torch.testing.assert_close(straight, permuted, atol=1e-12, rtol=0)


@each_member
def test_a_permutation_of_one_side_alone_changes_the_value(name: str) -> None:
    divergence, _ = MEMBERS[name]
    p, q = [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]
    straight = divergence(student_logp=_logp(q), teacher_logp=_logp(p)).item()
    shuffled = divergence(student_logp=_logp(q), teacher_logp=_logp(p[::-1])).item()
    assert shuffled > 3 * straight


@each_member
def test_gradient_is_the_numerical_one(name: str) -> None:
    divergence, _ = MEMBERS[name]
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64, generator=generator).log_softmax(-1)
    assert torch.autograd.gradcheck(
        lambda logits: divergence(student_logp=logits.log_softmax(-1), teacher_logp=teacher), (student,)
    )


@each_member
def test_tokens_without_mass_on_both_sides_leave_value_and_gradient_finite(name: str) -> None:
    divergence, reference = MEMBERS[name]
    logits = torch.tensor([[0.3, -0.2, -math.inf]], dtype=torch.float64, requires_grad=True)
    teacher = _logp([0.4, 0.6, 0.0])
    value = divergence(student_logp=logits.log_softmax(-1), teacher_logp=teacher)
    value.sum().backward()
    p, q = [0.4, 0.6, 0.0], logits.detach().softmax(-1)[0].tolist()
    assert value.item() == pytest.approx(reference(p, q), abs=1e-12)
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def test_mass_that_the_other_side_denies_is_infinite_or_bounded() -> None:
    p, q = _logp([0.5, 0.5, 0.0]), _logp([0.5, 0.0, 0.5])
    assert forward_kl(student_logp=q, teacher_logp=p).item() == math.inf
    assert reverse_kl(student_logp=q, teacher_logp=p).item() == math.inf
    for w in WEIGHTS:
        bound = -w * math.log(w) - (1 - w) * math.log(1 - w)
        value = jensen_shannon(student_logp=q, teacher_logp=p, teacher_weight=w).item()
        assert 0 < value <= bound


@each_member
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_computes_in_float32_whatever_comes_in(name: str, dtype: torch.dtype) -> None:
    divergence, _ = MEMBERS[name]
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(4, 300, generator=generator).log_softmax(-1).to(dtype)
    teacher = torch.randn(4, 300, generator=generator).log_softmax(-1).to(dtype)
    value = divergence(student_logp=student, teacher_logp=teacher)
    assert value.dtype == torch.float32 and value.shape == (4,)
    exact = divergence(student_logp=student.double(), teacher_logp=teacher.double())
    torch.testing.assert_close(value.double(), exact, atol=2e-6, rtol=2e-6)


@each_member
@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((1, 2, 3), (1, 2, 3))])
def test_tensors_that_do_not_fit_are_refused_with_both_shapes(
    name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    divergence, _ = MEMBERS[name]
    with pytest.raises(ShapeError) as error:
        divergence(student_logp=torch.zeros(shapes[0]), teacher_logp=torch.zeros(shapes[1]))
    assert str(shapes[0]) in str(error.value) and str(shapes[1]) in str(error.value)


@given(pair=distributions())
def test_directions_are_what_their_names_say(pair: tuple[list[float], list[float]]) -> None:
    p, q = pair
    forward = forward_kl(student_logp=_logp(q), teacher_logp=_logp(p))
    swapped = reverse_kl(student_logp=_logp(p), teacher_logp=_logp(q))
    torch.testing.assert_close(forward, swapped, atol=1e-12, rtol=0)


def test_golden_values_on_three_symbols() -> None:
    # teacher p = (1/2, 1/4, 1/4), student q = (1/4, 1/4, 1/2)
    # KL(p‖q) = 1/2·log 2 + 0 + 1/4·log(1/2) = 1/4·log 2; by symmetry KL(q‖p) is the same
    # M = (3/8, 1/4, 3/8): JS = 1/2·[1/2·log(4/3) + 1/4·log(2/3)] · 2 = 1/2·log(4/3) + 1/4·log(2/3)
    p, q = _logp([0.5, 0.25, 0.25]), _logp([0.25, 0.25, 0.5])
    assert forward_kl(student_logp=q, teacher_logp=p).item() == pytest.approx(math.log(2) / 4)
    assert reverse_kl(student_logp=q, teacher_logp=p).item() == pytest.approx(math.log(2) / 4)
    expected = math.log(4 / 3) / 2 + math.log(2 / 3) / 4
    assert jensen_shannon(student_logp=q, teacher_logp=p, teacher_weight=0.5).item() == pytest.approx(expected)


def test_an_asymmetric_pair_tells_the_directions_apart() -> None:
    # p = (0.9, 0.1), q = (0.5, 0.5): KL(p‖q) = 0.9·log 1.8 + 0.1·log 0.2; KL(q‖p) = 0.5·log(5/9) + 0.5·log 5
    p, q = _logp([0.9, 0.1]), _logp([0.5, 0.5])
    forward = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    backward = 0.5 * math.log(5 / 9) + 0.5 * math.log(5)
    assert abs(forward - backward) > 0.1
    assert forward_kl(student_logp=q, teacher_logp=p).item() == pytest.approx(forward)
    assert reverse_kl(student_logp=q, teacher_logp=p).item() == pytest.approx(backward)


@settings(max_examples=30)
@given(pair=distributions())
def test_jensen_shannon_tends_to_both_kls(pair: tuple[list[float], list[float]]) -> None:
    p, q = pair
    w = 1e-7
    near_teacher_zero = jensen_shannon(student_logp=_logp(q), teacher_logp=_logp(p), teacher_weight=w).item() / w
    near_teacher_one = jensen_shannon(student_logp=_logp(q), teacher_logp=_logp(p), teacher_weight=1 - w).item() / w
    assert near_teacher_zero == pytest.approx(_kl(p, q), abs=1e-5)
    assert near_teacher_one == pytest.approx(_kl(q, p), abs=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_jensen_shannon_refuses_its_degenerate_ends(weight: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        jensen_shannon(student_logp=_logp([1.0]), teacher_logp=_logp([1.0]), teacher_weight=weight)


def test_forward_kl_gradient_is_student_minus_teacher() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 6, dtype=torch.float64, generator=generator).log_softmax(-1)
    forward_kl(student_logp=logits.log_softmax(-1), teacher_logp=teacher).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - teacher.exp())
