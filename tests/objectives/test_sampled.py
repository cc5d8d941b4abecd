"""The term `sampled_divergence` as a run builds it: unbiased, repeatable, true to the teacher's tail."""

from __future__ import annotations

import math

import pytest
import torch

from distillab.config.terms import SampledDivergenceConfig
from distillab.errors import ShapeError, TeacherError
from distillab.objectives.sampled_divergence import SampledDivergence
from distillab.objectives.term import StudentScores
from distillab.teachers import FullLogits
from distillab.teachers.drawing import draw

V = 7


def scores(n: int) -> tuple[StudentScores, FullLogits]:
    """The same student and teacher at `n` positions; 3 further ids are not shared."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(1, V, generator=generator) for _ in range(2))
    unused = torch.full((1, 3), 20.0)
    wide = [torch.cat([side, unused], dim=1).expand(n, -1).clone() for side in (student, teacher)]
    return StudentScores(wide[0].requires_grad_(), torch.zeros(n, dtype=torch.long)), FullLogits(wide[1])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_mean_value_and_gradient_are_those_of_forward_kl(temperature: float) -> None:
    """20,000 positions of 3 draws each. A mean of n draws with deviation d is within 5·d/√n but once in a million."""
    torch.manual_seed(1)
    n, draws = 20_000, 3
    student, signal = scores(n)
    term = SampledDivergence(SampledDivergenceConfig(samples=draws, temperature=temperature), shared_width=V)
    values = term.per_position(student, signal)
    (gradient,) = torch.autograd.grad(values.sum(), student.logits_NV)
    assert values.shape == (n,) and values.dtype == torch.float32

    def softmax(logits: torch.Tensor) -> list[float]:
        exp = [math.exp(x / temperature) for x in logits[0, :V].tolist()]
        return [x / sum(exp) for x in exp]

    p, q = softmax(signal.logits_NW), softmax(student.logits_NV)
    for v in range(V):
        deviation = math.sqrt(p[v] * (1 - p[v]) / draws) / temperature
        mean = gradient[:, v].double().mean().item()
        assert abs(mean - (q[v] - p[v]) / temperature) < 5 * deviation / math.sqrt(n)
    assert bool((gradient[:, V:] == 0).all())
    # and so is the mean value, whose single draws are log p − log q
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    spread = math.sqrt(sum(a * (math.log(a / b) - expected) ** 2 for a, b in zip(p, q, strict=True)) / draws)
    assert abs(values.double().mean().item() - expected) < 5 * spread / math.sqrt(n)


def test_draws_are_independent_of_each_other_within_a_row_and_over_rows() -> None:
    torch.manual_seed(2)
    ids = draw(torch.tensor([[0.5, 0.5]]).log().expand(4000, 2), 2)
    pairs = (2 * ids[:, 0] + ids[:, 1]).bincount(minlength=4)
    assert ((pairs - 1000).abs() < 5 * math.sqrt(4000 * 0.25 * 0.75)).all()
    assert ids[0::2].eq(ids[1::2]).all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.06)


def test_the_same_seed_gives_the_same_draws_and_a_restored_state_goes_on_with_them() -> None:
    student, signal = scores(5)
    term = SampledDivergence(SampledDivergenceConfig(samples=4), shared_width=V)
    torch.manual_seed(3)
    first = term.per_position(student, signal)
    state = torch.get_rng_state()  # what a checkpoint holds
    second = term.per_position(student, signal)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    torch.testing.assert_close(term.per_position(student, signal), second, atol=0, rtol=0)
    torch.manual_seed(3)
    torch.testing.assert_close(term.per_position(student, signal), first, atol=0, rtol=0)


def test_tokens_without_mass_are_never_drawn_and_certain_ones_always() -> None:
    torch.manual_seed(4)
    p = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]]).log()
    ids = draw(p, 2000)
    assert [set(row) for row in ids.tolist()] == [{1, 3}, {4}, {0}]


def test_a_tail_of_tokens_that_are_each_rare_is_drawn_as_often_as_it_should_be() -> None:
    """A million tokens of 1e-8: added one by one in float32, none of them moves the sum."""
    torch.manual_seed(5)
    tail = 1_000_000
    logp = torch.full((1, tail + 1), 1e-8).log()
    logp[0, 0] = math.log(0.99)
    ids = draw(logp, 20_000)[0]
    drawn = ids[ids > 0]
    assert abs(len(drawn) - 200) < 5 * math.sqrt(200)
    # a sum that is only kept in float32 moves at every sixth of them, and no other could be drawn
    moves = logp.exp().cumsum(dim=-1).diff(dim=-1)[0] > 0
    assert moves.float().mean() < 0.2 and moves[drawn - 1].float().mean() < 0.5


def test_a_teacher_that_is_no_number_is_not_hidden() -> None:
    student, signal = scores(2)
    for wrong in (math.nan, math.inf):
        logits = signal.logits_NW.clone()
        logits[0, 1] = wrong
        term = SampledDivergence(SampledDivergenceConfig(samples=4), shared_width=V)
        values = term.per_position(student, FullLogits(logits))
        assert bool(values[0].isnan()) and bool(values[1].isfinite())


def test_signals_that_do_not_fit_are_refused() -> None:
    student, signal = scores(4)
    term = SampledDivergence(SampledDivergenceConfig(), shared_width=V)
    with pytest.raises(ShapeError, match="do not fit"):
        term.per_position(student, FullLogits(signal.logits_NW[:-1]))
    with pytest.raises(TeacherError, match="there is none"):
        term.per_position(student, None)
