"""The gradient that is written for a tile equals what torch differentiates, in float64, from the dense logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.config.terms import (
    CrossEntropyConfig,
    SampledDivergenceConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.divergences import divergence
from distillab.divergences.fused import Probabilities
from distillab.divergences.kl import forward_formula
from distillab.models.heads import OutputHead
from distillab.objectives import build_objective
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.drawn import Drawn
from distillab.objectives.tile_scores import TileScores
from distillab.teachers.signals import FullLogits
from tests.divergences.members import Member, each_member

V, W, SHARED = 13, 12, 11  # or the student has the shared ids alone
Logits = tuple[Tensor, Tensor, Tensor]


def _logits(n: int = 7, seed: int = 0, student_width: int = V) -> Logits:
    """(n, V) of the student, (n, W) of the teacher, and (n,) tokens that follow."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(n, width, generator=generator) for width in (student_width, W))
    return student, teacher, torch.randint(0, SHARED, (n,), generator=generator)


def _ours(
    of: Logits,
    terms: Sequence[TermConfig],
    factors: Sequence[float],
    drawn: Drawn | None = None,
    bias_V: Tensor | None = None,
    **finish: float,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the pass, whose head is the identity: its hidden states are the products."""
    leaf = of[0].clone().requires_grad_()
    objective = build_objective(terms, shared_width=SHARED)
    by_name = dict(zip(objective.names, factors, strict=True))
    head = OutputHead(torch.eye(of[0].shape[1]), bias_V, **finish)
    work = ChunkedLoss(head, of[2], FullLogits(of[1]), objective.token_terms, by_name, drawn=drawn)
    loss = work.loss(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach().double(), gradient.double()


def _expected(
    of: Logits,
    terms: Sequence[TermConfig],
    factors: Sequence[float],
    weight: Tensor | None = None,
    multiplier: float = 1.0,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in float64 from all logits at once."""
    leaf = of[0].double().requires_grad_()
    student = leaf * multiplier
    student = student if cap is None else cap * torch.tanh(student / cap)
    total = torch.zeros((), dtype=torch.float64)
    for term, factor in zip(terms, factors, strict=True):
        if isinstance(term, TokenDivergenceConfig):
            logp = [side[:, :SHARED].double() / term.temperature for side in (student, of[1])]
            ours, theirs = (side.log_softmax(-1) for side in logp)
            values = divergence(term.divergence, term.parameters)(student_logp=ours, teacher_logp=theirs)
            values = values * (term.temperature**2 if term.rescale_by_temperature_squared else 1.0)
        else:
            values = -student.log_softmax(-1).gather(1, of[2][:, None])[:, 0]
        total = total + factor * (values if weight is None else weight.double() * values).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return total.detach(), gradient


def _compare(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], within: float = 1e-6) -> None:
    """Compare to within a share of the loss, of its largest gradient, or of a nat: what cancels leaves its rounding.

    A gradient is a difference of numbers as large as the loss, which can be thousands where the gradient is one.
    """
    largest = max(1.0, *(float(exact.abs().max()) for exact in expected))
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=within, atol=2 * within * largest)


def _term(member: Member, temperature: float = 1.0, rescale: bool = False) -> TokenDivergenceConfig:
    values = {"divergence": member.name, "temperature": temperature, "rescale_by_temperature_squared": rescale}
    return TokenDivergenceConfig.model_validate(values | member.parameters)


@each_member
@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 9),
    temperature=st.sampled_from([1.0, 0.7, 4.0]),
    factors=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3),
    count=st.integers(1, 3),
    width=st.sampled_from([V, SHARED]),
)
def test_any_sum_of_terms(
    member: Member, seed: int, n: int, temperature: float, factors: list[float], count: int, width: int
) -> None:
    of = _logits(n, seed, width)
    terms = [_term(member, temperature, rescale=True), CrossEntropyConfig(), _term(member)][:count]
    # a negative power multiplies the rounding of the logits by their distance
    within = 5e-6 if min(member.parameters.values(), default=0.0) < 0 else 1e-6
    _compare(_ours(of, terms, factors[:count]), _expected(of, terms, factors[:count]), within)


@pytest.mark.parametrize("finish", [{"multiplier": 0.3}, {"cap": 4.0}, {"multiplier": 2.0, "cap": 9.0}])
@pytest.mark.parametrize("alone", [True, False])
def test_what_follows_the_product_is_differentiated(finish: dict[str, float], alone: bool) -> None:
    terms: list[TermConfig] = [TokenDivergenceConfig(), CrossEntropyConfig()][: 1 if alone else 2]
    factors = [0.7, 0.4][: len(terms)]
    of = _logits(student_width=SHARED)
    _compare(_ours(of, terms, factors, **finish), _expected(of, terms, factors, **finish))


def test_a_divergence_beside_the_total_of_the_same_logits() -> None:
    """One divergence alone leaves a factor to the caller; with a further number of the same softmax it is no factor."""
    student, teacher, targets = _logits(student_width=W)
    leaf, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    scores = TileScores(leaf, targets)
    total = scores.distance(forward_formula, Probabilities(teacher), 2.0).sum() + 0.3 * scores.log_total(W, 2.0).sum()
    out = torch.empty_like(student)
    assert scores.write_gradient(total, leaf, out) is None
    logp = (exact / 2.0).log_softmax(-1)
    values = divergence("forward_kl", {})(student_logp=logp, teacher_logp=teacher.double().log_softmax(-1))
    (expected,) = torch.autograd.grad(values.sum() + 0.3 * (exact / 2.0).logsumexp(-1).sum(), exact)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_every_position_has_its_own_factor(count: int) -> None:
    of, share = _logits(student_width=SHARED), torch.rand(7, generator=torch.Generator().manual_seed(1))
    terms, factors = [TokenDivergenceConfig(temperature=2.0), CrossEntropyConfig()][:count], [0.5, 0.25][:count]
    drawn = Drawn.of(torch.full((7,), math.nan), SHARED, weighs=False, share_N=share)
    _compare(_ours(of, terms, factors, drawn), _expected(of, terms, factors, share))


@pytest.mark.parametrize(
    "name", ["forward_kl", "reverse_kl", "jensen_shannon", "skewed_forward_kl", "skewed_reverse_kl"]
)
def test_tokens_without_mass_get_no_gradient_and_change_no_other(name: str) -> None:
    weight = {"jensen_shannon": {"teacher_weight": 0.3}}.get(name, {"skew": 0.2} if "skewed" in name else {})
    terms = [TokenDivergenceConfig.model_validate({"divergence": name} | weight)]
    student, teacher, targets = _logits()
    none_V = torch.zeros(V)
    none_V[4] = -math.inf
    found = _ours((student, teacher + none_V[:W], targets), terms, [1.0], bias_V=none_V)
    rest = [i for i in range(SHARED) if i != 4]
    ours, theirs = (side[:, rest].double().requires_grad_() for side in (student, teacher))
    values = divergence(name, weight)(
        student_logp=ours.log_softmax(-1), teacher_logp=theirs.detach().log_softmax(-1)
    ).sum()
    (gradient,) = torch.autograd.grad(values, ours)
    _compare((found[0], found[1][:, rest]), (values.detach(), gradient))
    assert bool((found[1][:, [4, 11, 12]] == 0).all())


def test_terms_that_torch_differentiates_join_those_that_it_does_not() -> None:
    of = _logits()
    terms = [TokenDivergenceConfig(), TopKDivergenceConfig(k=SHARED), CrossEntropyConfig()]
    as_two = [TokenDivergenceConfig(), TokenDivergenceConfig(), CrossEntropyConfig()]
    _compare(_ours(of, terms, [0.5, 0.3, 0.2]), _expected(of, as_two, [0.5, 0.3, 0.2]))


def test_draws_have_the_gradient_of_their_cross_entropy() -> None:
    of, terms = _logits(), [SampledDivergenceConfig(samples=3, temperature=2.0)]
    torch.manual_seed(0)
    drawn = FullLogits(of[1]).drawn(3, SHARED, 2.0)
    leaf = of[0].double().requires_grad_()
    value = -(leaf[:, :SHARED] / 2.0).log_softmax(-1).gather(1, drawn.ids).mean(-1).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.manual_seed(0)
    found = _ours(of, terms, [1.0])
    _compare(found, (value.detach() - drawn.entropy_estimate.double().sum(), gradient))


@pytest.mark.parametrize("lowest", [-80.0, -110.0, -math.inf])
def test_the_first_ids_may_have_no_mass(lowest: float) -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (
        torch.cat([torch.full((5, 70), lowest), torch.randn(5, 9, generator=generator)], dim=1) for _ in range(2)
    )
    exact = divergence("forward_kl", {})(
        student_logp=student.double().log_softmax(-1), teacher_logp=teacher.double().log_softmax(-1)
    )
    found = forward_formula(Probabilities(student), Probabilities(teacher)).value
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=2e-7)
