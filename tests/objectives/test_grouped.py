"""Log-probabilities of groups against sums of probabilities, and the gradient against finite differences."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillab.objectives.grouped import Grouping, grouped


def _grouping(labels: list[int]) -> Grouping:
    """Numbers from 0 on without gaps, whatever the labels are; those below 0 stand for no group."""
    numbers = {label: place for place, label in enumerate(sorted({label for label in labels if label >= 0}))}
    return Grouping(torch.tensor([numbers.get(label, -1) for label in labels]))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(-1, 4), min_size=2, max_size=9), seed=st.integers(0, 999))
def test_equals_sums_of_probabilities(labels: list[int], seed: int) -> None:
    if max(labels) < 0:
        labels = [*labels, 0]
    grouping = _grouping(labels)
    logits = torch.randn(3, len(labels), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = grouped(logits.log_softmax(-1), grouping)
    p = logits.softmax(-1)
    for group in range(int(grouping.of.max()) + 1):
        torch.testing.assert_close(found[:, group].exp(), p[:, grouping.of == group].sum(-1))
    assert grouping.complete == (min(labels) >= 0)
    assert torch.autograd.gradcheck(lambda x: grouped(x, grouping), logits.requires_grad_())


def test_far_below_what_float32_can_hold_as_a_probability() -> None:
    grouping = Grouping(torch.tensor([0, 1, 1, 0]))
    logp = torch.tensor([[-500.0, -300.0, -300.0, 0.0]])
    torch.testing.assert_close(grouped(logp, grouping), torch.tensor([[0.0, -300.0 + 0.693147]]))


def test_ids_and_groups_without_any_mass_have_no_gradient() -> None:
    grouping = Grouping(torch.tensor([0, 0, 1, 1, 2]))
    logp = torch.tensor([[-torch.inf, -torch.inf, -torch.inf, -1.0, -2.0]], requires_grad=True)
    found = grouped(logp, grouping)
    assert found.tolist() == [[-torch.inf, -1.0, -2.0]]
    (gradient,) = torch.autograd.grad(found[:, 1:].sum(), logp)
    assert gradient.tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0]]


def test_groups_of_one_id_each_are_the_ids() -> None:
    logp = torch.randn(2, 4)
    assert grouped(logp, Grouping(torch.arange(4))) is logp
    assert torch.equal(grouped(logp, Grouping(torch.tensor([3, 2, 1, 0]))), logp.flip(1))
