"""A teacher that says its most likely tokens only. References are loops over all tokens, one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.divergences import (
    drop_tail,
    forward_kl,
    logmass_left,
    logmass_outside,
    renormalised,
    reverse_kl,
    with_tail_cell,
)
from distillab.errors import ShapeError
from tests.divergences.members import MEMBERS, Member, distributions, kl, logp

Pair = tuple[list[float], list[float]]
# merging outcomes never raises these
F_DIVERGENCES = [m for m in MEMBERS if m.name not in ("adaptive_kl", "alpha_beta")]


def top(p: list[float], k: int) -> list[int]:
    return sorted(range(len(p)), key=lambda i: -p[i])[:k]


def merged(p: list[float], ids: list[int]) -> list[float]:
    return [p[i] for i in ids] + [sum(x for i, x in enumerate(p) if i not in ids)]


def cells(p: list[float], q: list[float], ids: list[int]) -> dict[str, Tensor]:
    kept = torch.tensor([ids])
    teacher = logp(p)
    student, cut = with_tail_cell(
        student_logp=logp(q),
        kept_ids=kept,
        kept_logp=teacher[:, ids],
        tail_logmass=logmass_outside(logp=teacher, kept_ids=kept),
    )
    return {"student_logp": student, "teacher_logp": cut}


@given(pair=distributions(), data=st.data())
def test_the_tail_cell_holds_what_all_other_tokens_hold(pair: Pair, data: st.DataObject) -> None:
    p, q = pair
    ids = top(p, data.draw(st.integers(1, len(p))))
    both = cells(p, q, ids)
    assert both["student_logp"][0].exp().tolist() == pytest.approx(merged(q, ids), abs=1e-15)
    assert both["teacher_logp"][0].exp().tolist() == pytest.approx(merged(p, ids), abs=1e-15)
    assert forward_kl(**both).item() == pytest.approx(kl(merged(p, ids), merged(q, ids)), abs=1e-12)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
@settings(max_examples=10)
@given(pair=distributions())
def test_all_tokens_kept_is_the_dense_value(member: Member, pair: Pair) -> None:
    p, q = pair
    dense = member(student_logp=logp(q), teacher_logp=logp(p)).item()
    assert member(**cells(p, q, top(p, len(p)))).item() == pytest.approx(dense, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("member", F_DIVERGENCES, ids=str)
@settings(max_examples=15)
@given(pair=distributions(sizes=(3, 8)))
def test_more_kept_tokens_never_lower_the_value(member: Member, pair: Pair) -> None:
    """Data-processing inequality: k+1 cells are a merging of k+2 cells, and so on up to all tokens."""
    p, q = pair
    rising = [member(**cells(p, q, top(p, k))).item() for k in range(1, len(p) + 1)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(rising))


def test_forward_kl_rises_with_every_token_that_tells_something() -> None:
    p, q = [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]
    rising = [forward_kl(**cells(p, q, top(p, k))).item() for k in (1, 2, 3, 4)]
    assert rising[0] < rising[1] < rising[2]
    # one token is all that the last tail held: nothing is merged
    assert rising[2] == pytest.approx(rising[3]) == pytest.approx(kl(p, q))


def test_the_gradient_through_the_cells_is_the_numerical_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 6, dtype=torch.float64, generator=generator).log_softmax(-1)
    kept_logp, kept_ids = teacher.topk(2, dim=-1)
    tail = logmass_outside(logp=teacher, kept_ids=kept_ids)

    def of(student_logits: Tensor) -> Tensor:
        student, cut = with_tail_cell(
            student_logp=student_logits.log_softmax(-1), kept_ids=kept_ids, kept_logp=kept_logp, tail_logmass=tail
        )
        return torch.stack([forward_kl(student_logp=student, teacher_logp=cut), student[:, -1]])

    assert torch.autograd.gradcheck(of, (logits,))
    # without normalisation too: each cell's own derivative
    free = logits.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: logmass_outside(logp=x, kept_ids=kept_ids), (free,))


def test_an_empty_tail_has_no_mass_and_no_gradient() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    teacher = torch.randn(2, 4, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    kept_logp, kept_ids = teacher.topk(4, dim=-1)
    student, cut = with_tail_cell(
        student_logp=logits.log_softmax(-1),
        kept_ids=kept_ids,
        kept_logp=kept_logp,
        tail_logmass=logmass_outside(logp=teacher, kept_ids=kept_ids),
    )
    assert student[:, -1].tolist() == cut[:, -1].tolist() == [-math.inf, -math.inf]
    found = torch.autograd.grad(reverse_kl(student_logp=student, teacher_logp=cut).sum(), logits)
    dense = reverse_kl(student_logp=logits.log_softmax(-1), teacher_logp=teacher)
    torch.testing.assert_close(found, torch.autograd.grad(dense.sum(), logits))


def test_a_tail_that_the_student_denies_leaves_the_gradient_finite() -> None:
    logits = torch.tensor([[0.3, 0.1, -math.inf, -math.inf]], requires_grad=True)
    student, teacher = with_tail_cell(
        student_logp=logits.log_softmax(-1),
        kept_ids=torch.tensor([[0, 1]]),
        kept_logp=logp([0.6, 0.4], torch.float32),
        tail_logmass=torch.tensor([-math.inf]),
    )
    found = forward_kl(student_logp=student, teacher_logp=teacher)
    (gradient,) = torch.autograd.grad(found, logits)
    expected = logits.detach().softmax(-1) - torch.tensor([[0.6, 0.4, 0.0, 0.0]])
    torch.testing.assert_close(gradient, expected)


def test_a_tail_of_any_size_is_exact_where_the_whole_distribution_is_known() -> None:
    # 1 − Σ kept is 0 in float32 for tails below 6e-8; and below e^-104 no probability is left in float32 at all
    for far in (-5.0, -20.0, -40.0, -110.0):
        row = torch.tensor([[0.0, far, far - 1.0]]).log_softmax(-1)
        expected = far + math.log1p(math.exp(-1.0)) - math.log1p(math.exp(far) + math.exp(far - 1.0))
        assert logmass_outside(logp=row, kept_ids=torch.tensor([[0]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.fixture(params=[False, True], ids=["gradual underflow", "flushed to zero"])
def flushed(request: pytest.FixtureRequest) -> Iterator[None]:
    """With and without what some processors do to numbers below the smallest normal one."""
    if not torch.set_flush_denormal(request.param):
        pytest.skip("the processor cannot flush to zero")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tails_are_exact_on_both_sides_of_the_smallest_number(dtype: torch.dtype) -> None:
    """Value and gradient against a loop, for tails from well above to far below what the type can hold.

    Members all alike, of many sizes, and one large one beside many that are just too small.
    """
    members, real = 2000, torch.finfo(dtype)
    generator = torch.Generator().manual_seed(5)
    smallest = math.log(real.tiny)
    noise = torch.randn(members, dtype=dtype, generator=generator)
    rows = []
    for above in range(-30, 40):
        of_total = torch.tensor(smallest + above, dtype=dtype)
        rows += [of_total - math.log(members) + scale * noise for scale in (0.0, 3.0)]
        rows.append(torch.full((members,), smallest - 0.05, dtype=dtype))
        rows[-1][0] = of_total
    # the kept token has all the mass that the type can tell: log 1
    logits_NV = torch.cat([torch.zeros(len(rows), 1, dtype=dtype), torch.stack(rows)], dim=1).requires_grad_()
    kept = {"kept_ids": torch.zeros(len(rows), 1, dtype=torch.long)}
    empty = torch.zeros(len(rows), 1, dtype=dtype)
    found = with_tail_cell(student_logp=logits_NV, kept_logp=empty, tail_logmass=empty[:, 0], **kept)[0]
    (gradient,) = torch.autograd.grad(found[:, 1].sum(), logits_NV)
    assert bool((found[:, 0] == 0).all())
    # of what normalises it; the members' own probabilities are nothing beside their shares of the tail
    assert bool((gradient[:, 0] == -1).all())
    known = logmass_outside(logp=logits_NV.detach(), **kept)
    torch.testing.assert_close(found[:, 1].detach(), known, rtol=real.eps, atol=4 * real.eps)
    for row, mass, share in zip(rows, found[:, 1].tolist(), gradient[:, 1:], strict=True):
        values = row.tolist()
        top = max(values)
        total = math.fsum(math.exp(value - top) for value in values)
        # of a logarithm of this size the last digit; and the rounding of a sum
        assert mass == pytest.approx(top + math.log(total), rel=real.eps, abs=4 * real.eps)
        exact = torch.tensor([math.exp(value - top) / total for value in values], dtype=torch.float64)
        # what is lost of a member is its part of a rounding of all of them together
        torch.testing.assert_close(share.double(), exact, rtol=60 * real.eps, atol=2 * real.eps / members)


@pytest.mark.parametrize("far", [-2.0, -30.0, -750.0], ids=lambda far: f"tail {far:g}")
def test_a_tiny_tail_of_logits_is_that_of_their_log_probabilities(far: float) -> None:
    """Logits may stand for log-probabilities: values, and the gradient through a divergence, by numbers one by one."""
    values = [51.0, 50.0, 50.5 + far, 49.0 + far]
    logits = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    teacher = logp([0.7, 0.2])
    tail = torch.tensor([math.log(0.1)], dtype=torch.float64)
    ids = torch.tensor([[0, 1]])
    student, cut = with_tail_cell(student_logp=logits, kept_ids=ids, kept_logp=teacher, tail_logmass=tail)
    log_sum = 51.0 + math.log(math.fsum(math.exp(value - 51.0) for value in values))
    log_tail = 50.5 + far + math.log1p(math.exp(-1.5)) - log_sum
    assert student[0].tolist() == pytest.approx([51.0 - log_sum, 50.0 - log_sum, log_tail], rel=1e-14, abs=1e-14)
    (gradient,) = torch.autograd.grad(forward_kl(student_logp=student, teacher_logp=cut).sum(), logits)
    prob = [math.exp(value - log_sum) for value in values]
    # of forward KL: q − p, the teacher's tail spread as the student's own
    share = 1 / (1 + math.exp(-1.5))
    expected = [prob[0] - 0.7, prob[1] - 0.2, prob[2] - 0.1 * share, prob[3] - 0.1 * (1 - share)]
    assert gradient[0].tolist() == pytest.approx(expected, abs=1e-14)


def test_what_the_kept_tokens_leave_is_known_to_their_rounding() -> None:
    assert logmass_left(logp([0.5, 0.3])).item() == pytest.approx(math.log(0.2))
    assert logmass_left(logp([0.6, 0.3, 0.1])).item() == -math.inf
    generator = torch.Generator().manual_seed(3)
    whole = (3 * torch.randn(50, 2000, generator=generator)).log_softmax(-1)
    assert bool((logmass_left(whole) == -math.inf).all())
    assert logmass_left(torch.tensor([[0.99999]]).log()).item() == pytest.approx(math.log(1e-5), abs=0.01)
    # a tail of 1e-9 is there in float64
    assert logmass_left(logp([1 - 1e-9])).item() == pytest.approx(math.log(1e-9), abs=1e-5)
    assert math.isnan(logmass_left(logp([0.7, 0.4])).item())


@given(pair=distributions(sizes=(3, 7)))
def test_renormalised_compares_ratios_and_drop_tail_the_true_probabilities(pair: Pair) -> None:
    p, q = pair
    ids = top(p, 2)
    arguments = {"student_logp": logp(q), "kept_ids": torch.tensor([ids]), "kept_logp": logp(p)[:, ids]}
    student, teacher = renormalised(**arguments)
    scaled_p, scaled_q = ([side[i] / sum(side[j] for j in ids) for i in ids] for side in (p, q))
    assert forward_kl(student_logp=student, teacher_logp=teacher).item() == pytest.approx(kl(scaled_p, scaled_q))
    student, teacher = drop_tail(**arguments)
    expected = sum(p[i] * math.log(p[i] / q[i]) for i in ids)
    assert forward_kl(student_logp=student, teacher_logp=teacher).item() == pytest.approx(expected, abs=1e-12)


def test_without_its_tail_the_best_student_is_over_confident() -> None:
    """The optimum is t/Σt on the kept tokens and nothing elsewhere, and its value Σt·log Σt is negative."""
    teacher = logp([0.4, 0.3, 0.2, 0.1])
    arguments = {"kept_ids": torch.tensor([[0, 1]]), "kept_logp": teacher[:, :2]}
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        student, cut = drop_tail(student_logp=logits.log_softmax(-1), **arguments)
        (gradient,) = torch.autograd.grad(forward_kl(student_logp=student, teacher_logp=cut), logits)
        logits = (logits - gradient).detach().requires_grad_()
    found = logits.softmax(-1)[0].tolist()
    assert found == pytest.approx([4 / 7, 3 / 7, 0.0, 0.0], abs=1e-3)
    student, cut = drop_tail(student_logp=logits.log_softmax(-1), **arguments)
    assert forward_kl(student_logp=student, teacher_logp=cut).item() == pytest.approx(0.7 * math.log(0.7), abs=1e-3)
    # with the cell the teacher itself is an optimum
    student, cut = with_tail_cell(student_logp=teacher, tail_logmass=logp([0.3])[0], **arguments)
    assert forward_kl(student_logp=student, teacher_logp=cut).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 4), (2, 4)), ((2, 3), (1, 2), (1, 2)), ((2, 3), (2, 2), (2, 1)), ((3,), (3,), (3,))]
)
def test_tensors_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    student, ids, kept = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.long), torch.zeros(shapes[2])
    for function in (renormalised, drop_tail):
        with pytest.raises(ShapeError, match="K ≤ V"):
            function(student_logp=student, kept_ids=ids, kept_logp=kept)
    with pytest.raises(ShapeError, match="K ≤ V"):
        with_tail_cell(student_logp=student, kept_ids=ids, kept_logp=kept, tail_logmass=torch.zeros(2))


def test_a_tail_that_is_not_one_number_a_position_is_refused() -> None:
    ids = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ShapeError, match="one number a position"):
        with_tail_cell(
            student_logp=torch.zeros(2, 3), kept_ids=ids, kept_logp=torch.zeros(2, 1), tail_logmass=torch.zeros(2, 1)
        )
