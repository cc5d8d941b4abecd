"""Log-probabilities of groups against sums of probabilities, and the gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distillab.objectives.grouped import Grouping, Links, grouped, numbered_by_ids, slopes, summed, sums


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


@st.composite
def _links(draw: st.DrawFn) -> Links:
    """Any matrix that leaves no outcome without an entry, its weights eighths."""
    width = draw(st.integers(2, 6))
    rows = draw(st.lists(st.lists(st.integers(0, 8), min_size=width, max_size=width).filter(any), min_size=1))
    matrix = torch.tensor(rows)
    outcomes, ids = matrix.nonzero(as_tuple=True)
    return Links(ids, outcomes, width, matrix[outcomes, ids].float() / 8)


# id 0 leads to two outcomes, of which one has its number; the last ids lead nowhere
_ONE_WITH_TWO = Links(torch.tensor([0, 1, 2, 0]), torch.arange(4), 4, torch.tensor([0.5, 1.0, 1.0, 0.5]))
# id 5 leads to an outcome alone, and its number is beyond those of the outcomes; two others share one
_BEYOND = Links(torch.arange(6), torch.tensor([0, 1, 2, 3, 3, 4]), 6, torch.tensor([1.0, 0.5, 1.0, 0.5, 1.0, 0.5]))


@settings(max_examples=60, deadline=None)
@example(links=_ONE_WITH_TWO, scale=1.0, seed=0)
@given(links=_links(), scale=st.sampled_from([1.0, 300.0]), seed=st.integers(0, 999))
def test_weighted_sums_from_logits(links: Links, scale: float, seed: int) -> None:
    """An id may lead to several outcomes, and several ids to one; far apart, too, in float32."""
    logits = scale * torch.randn(3, links.width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert links.weights is not None
    log_weights = torch.full((len(links.sizes), links.width), -torch.inf, dtype=torch.float64)
    log_weights[links.outcomes, links.ids] = links.weights.double().log()
    expected = (logits[:, None, :] + log_weights).logsumexp(-1)
    torch.testing.assert_close(summed(logits.float(), links).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(lambda x: summed(x, links), logits.requires_grad_())


@settings(max_examples=60, deadline=None)
@given(links=_links(), seed=st.integers(0, 999))
@example(links=_ONE_WITH_TWO, seed=0)
@example(links=replace(_ONE_WITH_TWO, width=5), seed=0)
@example(links=_BEYOND, seed=0)
def test_numbers_of_the_ids_change_the_order_alone(links: Links, seed: int) -> None:
    """As many as can be have the number of their id, and the same sums and gradient come out, in memory of its own."""
    assert links.weights is not None
    numbers = torch.from_numpy(numbered_by_ids(links.ids.numpy(), links.outcomes.numpy()))
    assert sorted(numbers.tolist()) == list(range(len(links.sizes)))
    single = links.sizes[links.outcomes] == 1
    spared = {i for i in links.ids[single].tolist() if i < len(numbers)}
    assert int((numbers[links.outcomes] == links.ids)[single].sum()) == len(spared)
    outcomes, order = numbers[links.outcomes].sort(stable=True)
    renumbered = Links(links.ids[order], outcomes, links.width, links.weights[order])
    logits = torch.randn(3, links.width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(summed(logits, renumbered)[:, numbers], summed(logits, links))
    assert torch.autograd.gradcheck(lambda x: summed(x, renumbered), logits.requires_grad_())
    _, shares = sums(logits.detach(), renumbered, shares=True)
    gradient = torch.randn(3, len(numbers), dtype=torch.float64)
    before = gradient.clone()
    expected = slopes(gradient, renumbered, shares)
    assert torch.equal(gradient, before)
    torch.testing.assert_close(slopes(gradient, renumbered, shares, overwrite=True), expected)


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
