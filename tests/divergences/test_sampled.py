"""The teacher by draws: its expectation over all possible draws, summed up one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from distillab.divergences import sampled_cross_entropy
from distillab.errors import ShapeError
from tests.divergences.members import kl


def test_equals_the_sum_over_counts() -> None:
    student = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    drawn = torch.tensor([[1, 1, 4, 0], [2, 2, 2, 2]])
    found = sampled_cross_entropy(student_logp=student, drawn_ids=drawn).tolist()
    for row, (ids, logp) in enumerate(zip(drawn.tolist(), student.tolist(), strict=True)):
        expected = -sum(ids.count(v) / 4 * logp[v] for v in range(5))
        assert found[row] == pytest.approx(expected, rel=1e-6)


def test_value_and_gradient_are_unbiased_over_all_draws() -> None:
    """Every pair of draws with its probability: E[C] = KL + H(p), E[∂C/∂logits] = q − p, forward KL's gradient."""
    p = [0.6, 0.3, 0.1]
    logits = torch.tensor([[0.2, -0.4, 0.7]], dtype=torch.float64, requires_grad=True)
    q = logits.detach().softmax(-1)[0]
    mean_value, mean_gradient = 0.0, torch.zeros(3, dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=2):
        found = sampled_cross_entropy(student_logp=logits.log_softmax(-1), drawn_ids=torch.tensor([draws]))
        (gradient,) = torch.autograd.grad(found, logits)
        weight = math.prod(p[i] for i in draws)
        mean_value += weight * found.item()
        mean_gradient += weight * gradient[0]
    entropy = -sum(x * math.log(x) for x in p)
    assert mean_value == pytest.approx(kl(p, q.tolist()) + entropy, abs=1e-14)
    torch.testing.assert_close(mean_gradient, q - torch.tensor(p, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((2, 3), (2, 0)), ((3,), (3,))])
def test_tensors_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match="K ≥ 1"):
        sampled_cross_entropy(student_logp=torch.zeros(shapes[0]), drawn_ids=torch.zeros(shapes[1], dtype=torch.long))
