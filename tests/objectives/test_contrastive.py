"""The term contrastive against loops over single spans in float64, its bound, and what it must not depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from distillab.config.layer_terms import ContrastiveConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.errors import ConfigError, NumericsError, ShapeError
from distillab.models.activations import Activations
from distillab.models.aligned_positions import align_batch
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.build import build_objective
from distillab.objectives.contrastive import Contrastive
from tests.objectives.contrastive_samples import ALL, contrastive_term, naive_spans, one_step, span_batch, span_states
from tests.objectives.samples import STUDENT, TEACHER, D

# ---------------------------------------------------------------- the naive reference


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def _naive(
    term: Contrastive, numbers: Sequence[int], queue: Sequence[int], weights: dict[str, Tensor], tau: Tensor
) -> tuple[Tensor, int]:
    """Sum and count; the queue holds the spans of some rows."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for s_layer, t_layer in term.pairs:
        w_s, w_t = (weights[f"s{s_layer}_t{t_layer}.{side}.weight"] for side in ("student", "teacher"))
        kept = [span for number in queue for span in naive_spans(term, number, (s_layer, t_layer))]
        for number in numbers:
            spans = naive_spans(term, number, (s_layer, t_layer))
            count += len(spans)
            for text, ours, theirs in spans:
                own = torch.exp(_cosine(w_s @ ours, w_t @ theirs) / tau)
                forth, back = own, own
                for other_text, other_ours, other_theirs in spans:
                    if other_text != text:
                        forth = forth + torch.exp(_cosine(w_s @ ours, w_t @ other_theirs) / tau)
                        back = back + torch.exp(_cosine(w_s @ other_ours, w_t @ theirs) / tau)
                for other_text, _, other_theirs in kept:
                    if other_text != text:
                        forth = forth + torch.exp(_cosine(w_s @ ours, w_t @ other_theirs) / tau)
                total = total - 0.5 * (torch.log(own / forth) + torch.log(own / back))
    return total / len(term.pairs), count // len(term.pairs)


def _weights(term: Contrastive) -> dict[str, Tensor]:
    assert term.projector is not None
    return {name: p.detach().double().requires_grad_() for name, p in term.projector.named_parameters()}


@pytest.mark.parametrize("layers", ["last", "uniform", "embeddings", ((1, 1), (2, 3))])
@pytest.mark.parametrize("queue", [0, 40])
def test_sum_count_and_gradients_are_those_of_a_naive_loop(layers: Any, queue: int) -> None:
    term = contrastive_term(layers=layers, queue=queue, temperature="learned")
    assert term.projector is not None
    one_step(term, span_batch([5, 2]))
    batch = span_batch(ALL)
    student, teacher = span_states(term, batch)
    total = term.total(student, teacher, batch)
    weights = _weights(term)
    taus = [1 / weight.exp() for name, weight in weights.items() if name.endswith("log_scale")]
    expected, count = _naive(term, ALL, [2, 5] if queue else [], weights, taus[0])
    assert total.shape == () and total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert term.count(batch) == count == 5 + 4 + 4 + 1 + 0 + 5
    total.backward()
    expected.backward()
    for name, parameter in term.projector.named_parameters():
        gradient = weights[name].grad
        if name.endswith("log_scale"):  # the naive loop has read the first pair's for all
            continue
        assert gradient is not None and parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-3, atol=1e-4)
    if len(term.pairs) == 1:
        (scale,) = (p for name, p in term.projector.named_parameters() if name.endswith("log_scale"))
        (naive_scale,) = (p for name, p in weights.items() if name.endswith("log_scale"))
        assert scale.grad is not None and naive_scale.grad is not None
        assert scale.grad.item() == pytest.approx(naive_scale.grad.item(), rel=1e-4)


# ---------------------------------------------------------------- what it must not depend on


def test_no_arrangement_of_the_rows_changes_the_sum_the_count_or_the_queue() -> None:
    """Two steps each: the second one reads the queue that the first one has filled."""

    def run(*steps: Sequence[TokenBatch]) -> tuple[list[float], list[int], Tensor, Tensor]:
        term = contrastive_term(queue=9)
        sums = [one_step(term, *batches) for batches in steps]
        queue = term.heads(term.pairs[0]).queue
        assert queue is not None
        counts = [sum(term.count(batch) for batch in batches) for batches in steps]
        return sums, counts, queue.states_QE.clone(), queue.text_Q.clone()

    whole = run([span_batch([0, 1, 2, 4])], [span_batch([3, 5, 0])])
    assert (whole[3] != 0).all()
    for other in (
        run([span_batch([0, 1, 2, 4], "left", "right")], [span_batch([3, 5, 0], "left", "left")]),
        run([span_batch([4, 2]), span_batch([1, 0], "left")], [span_batch([0]), span_batch([5]), span_batch([3])]),
        run([span_batch([0]), span_batch([1]), span_batch([2]), span_batch([4])], [span_batch([5, 0, 3])]),
    ):
        assert other[0] == pytest.approx(whole[0], rel=1e-5)
        assert other[1] == whole[1]
        torch.testing.assert_close(other[2], whole[2])
        assert torch.equal(other[3], whole[3])


def test_nothing_of_padding_is_read_and_states_may_be_bfloat16() -> None:
    term, batch = contrastive_term(), span_batch(ALL, "left", "right")
    student, teacher = span_states(term, batch)
    expected = term.total(student, teacher, batch).item()
    halves = [Activations(hidden={k: v.bfloat16() for k, v in side.hidden.items()}) for side in (student, teacher)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = term.total(halves[0], halves[1], batch)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected, rel=2e-2)


def test_a_batch_without_a_unit_gives_zero_that_still_reaches_all_that_learns() -> None:
    nowhere = span_batch([1])  # two tokenisations that meet at no byte at all
    for side in (nowhere, nowhere["teacher"]):
        side["spans"] = torch.full_like(side["input_ids"], -1)
    nowhere["alignment"] = align_batch(nowhere, nowhere["teacher"])
    for batch in (span_batch([4]), span_batch([4, 4]), nowhere):
        term = contrastive_term(temperature="learned")
        student, teacher = span_states(term, batch)
        states = student.hidden[2].requires_grad_()
        total = term.total(student, teacher, batch)
        assert total.item() == 0.0 and term.count(batch) == 0
        assert term.projector is not None
        parameters = list(term.projector.parameters())
        gradients = torch.autograd.grad(total, [states, *parameters])  # raises where one is not reached
        assert all(not gradient.any() for gradient in gradients)
        term.end_step(lambda values: values)


def test_states_of_another_batch_are_refused() -> None:
    term, batch = contrastive_term(), span_batch([0, 1])
    student, teacher = span_states(term, span_batch([1, 5]))
    with pytest.raises(ShapeError, match="do not fit together"):
        term.total(student, teacher, batch)


# ---------------------------------------------------------------- the bound, and what raises the value


def _spelled(n: int) -> TokenBatch:
    """A row of n spans with n texts, a token each, behind a prompt of one."""
    ids = np.arange(n + 1, dtype=np.int32) + 3
    row = EncodedRow("row", ids, np.arange(n + 1) >= 1, 1)
    spans = np.arange(n + 1)
    return PairedCollator(Collator(0), Collator(0))([PairedRow(0, row, row, spans, spans)])


def _square(width: int, **changes: Any) -> Contrastive:
    """A term whose heads change nothing."""
    shape = ModelShape(2, width, 2, 2, 3)
    config = ContrastiveConfig(**{"width": width, "queue": 0, **changes})
    term = Contrastive(config, student=shape, teacher=shape)
    for head in (term.heads(term.pairs[0]).student, term.heads(term.pairs[0]).teacher):
        torch.nn.init.eye_(head.weight)
    return term


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), tau=st.floats(0.05, 2.0))
def test_matched_pairs_of_orthogonal_spans_have_the_value_of_the_formula(n: int, tau: float) -> None:
    batch, term = _spelled(n), _square(n + 1, temperature=tau)
    states = Activations(hidden={2: torch.eye(n + 1)[None]})
    expected = math.log(1 + (n - 1) * math.exp(-1 / tau))
    assert term.total(states, states, batch).item() / n == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 8), tau=st.floats(0.1, 2.0), seed=st.integers(0, 10**6), pull=st.floats(0.0, 5.0))
def test_no_states_come_below_the_value_of_a_simplex(n: int, tau: float, seed: int, pull: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch, term = _spelled(n), _square(6, temperature=tau)
    theirs = torch.randn(1, n + 1, 6, generator=generator)
    ours = torch.randn(1, n + 1, 6, generator=generator) + pull * theirs
    value = term.total(Activations(hidden={2: ours}), Activations(hidden={2: theirs}), batch).item() / n
    bound = math.log(1 + (n - 1) * math.exp(-n / ((n - 1) * tau)))
    assert value >= bound - 1e-5
    simplex = torch.eye(n + 1)
    simplex[1:, 1:] -= 1 / n
    states, reached = Activations(hidden={2: simplex[None]}), _square(n + 1, temperature=tau)
    assert reached.total(states, states, batch).item() / n == pytest.approx(bound, rel=1e-4, abs=1e-5)


def test_gradient_descent_on_the_student_reaches_the_bound() -> None:
    batch, term = _spelled(5), _square(6, temperature=0.5)
    teacher = Activations(hidden={2: torch.eye(6)[None]})
    states = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    start = term.total(Activations(hidden={2: states}), teacher, batch).item()
    optimizer = torch.optim.Adam([states], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        total = term.total(Activations(hidden={2: states}), teacher, batch)
        total.backward()
        optimizer.step()
    orthogonal = 5 * math.log(1 + 4 * math.exp(-2))
    assert start > 2 * orthogonal
    assert total.item() < orthogonal  # the teacher's side is orthogonal, the student's may be better than that


@pytest.mark.parametrize("shift", [1, -1])
def test_spans_that_are_shifted_by_one_raise_the_value(shift: int) -> None:
    batch, term = _spelled(6), _square(9)
    states = torch.randn(1, 7, 9, generator=torch.Generator().manual_seed(1))
    matched, shifted = (Activations(hidden={2: part}) for part in (states, states.roll(shift, dims=1)))
    value = term.total(matched, matched, batch).item()
    assert value < 0.1 * term.total(shifted, matched, batch).item()
    assert value < 0.1 * term.total(matched, shifted, batch).item()


# ---------------------------------------------------------------- false negatives


def test_spans_with_the_same_tokens_are_not_told_apart() -> None:
    ids = np.array([5, 7, 8, 7, 8], dtype=np.int32)  # 7 8 | 7 8
    row = EncodedRow("row", ids, np.arange(5) >= 1, 1)
    spans = np.array([0, 1, 1, 2, 2])
    batch = PairedCollator(Collator(0), Collator(0))([PairedRow(0, row, row, spans, spans)])
    term = _square(4)
    chance = torch.Generator().manual_seed(0)
    sides = [Activations(hidden={2: torch.randn(1, 5, 4, generator=chance)}) for _ in range(2)]
    assert term.count(batch) == 2
    assert term.total(sides[0], sides[1], batch).item() == pytest.approx(0.0, abs=1e-6)
    swapped = np.array([5, 7, 8, 8, 7], dtype=np.int32)  # the same tokens in another order are another text
    other = EncodedRow("row", swapped, np.arange(5) >= 1, 1)
    batch = PairedCollator(Collator(0), Collator(0))([PairedRow(0, other, other, spans, spans)])
    assert term.total(sides[0], sides[1], batch).item() > 0.01


# ---------------------------------------------------------------- temperature, heads, settings


def test_a_learned_temperature_falls_where_pairs_match_and_keeps_to_its_bounds() -> None:
    batch, term = _spelled(4), _square(5, temperature="learned")
    (scale,) = (p for name, p in term.projector.named_parameters() if "scale" in name)  # type: ignore[union-attr]
    assert scale.exp().item() == pytest.approx(1 / 0.07)
    generator = torch.Generator().manual_seed(2)
    matched = torch.randn(1, 5, 5, generator=generator)
    shuffled = matched.roll(2, dims=1)
    optimizer = torch.optim.Adam([scale], lr=0.3)

    def learn(ours: Tensor, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            total = term.total(Activations(hidden={2: ours}), Activations(hidden={2: matched}), batch)
            total.backward()
            optimizer.step()
            term.end_step(lambda values: values)
        return scale.exp().item()

    assert learn(matched, 40) == pytest.approx(100.0)
    assert learn(shuffled, 60) == pytest.approx(1.0)  # it has come back from its bound, and stays at the other
    scale.data.fill_(9.0)  # beyond the bound, before a step's end: read as if it stood there
    beyond = term.total(Activations(hidden={2: shuffled}), Activations(hidden={2: matched}), batch).item()
    fixed = _square(5, temperature=0.01).total(
        Activations(hidden={2: shuffled}), Activations(hidden={2: matched}), batch
    )
    assert beyond == pytest.approx(fixed.item(), rel=1e-5)


def test_a_fixed_temperature_is_no_parameter_and_counts() -> None:
    assert len(_weights(contrastive_term())) == 2 and len(_weights(contrastive_term(temperature="learned"))) == 3
    batch = span_batch(ALL)
    values = {
        tau: contrastive_term(temperature=tau).total(*span_states(contrastive_term(), batch), batch).item()
        for tau in (0.1, 0.2)
    }
    assert values[0.1] != pytest.approx(values[0.2], rel=1e-2)
    for wrong in (0.0, -1.0, "warm"):
        with pytest.raises(ValidationError):
            ContrastiveConfig(temperature=wrong)


def test_the_students_heads_start_where_the_teachers_put_the_spans() -> None:
    term, batch = contrastive_term(layers="uniform"), span_batch(ALL)
    student, teacher = span_states(term, batch)
    before, weights = term.total(student, teacher, batch).item(), _weights(term)
    term.initialise(student, teacher, batch)
    assert term.total(student, teacher, batch).item() < 0.8 * before
    for name, weight in _weights(term).items():
        assert torch.equal(weight, weights[name]) == ("student" not in name)


def test_a_warm_up_batch_without_a_span_is_refused() -> None:
    term, batch = contrastive_term(), span_batch([4])
    with pytest.raises(NumericsError, match="cannot be initialised"):
        term.initialise(*span_states(term, batch), batch)


def test_it_is_built_from_its_settings() -> None:
    config = ContrastiveConfig(layers=((1, 2),), width=4, queue=0, projector_learning_rate=0.1)
    objective = build_objective((config,), shared_width=0, student=STUDENT, teacher=TEACHER)
    (term,) = objective.activation_terms.values()
    assert isinstance(term, Contrastive) and objective.remembering_terms == [term]
    assert list(term.student_activations.hidden) == [1] and list(term.teacher_activations.hidden) == [2]
    assert term.projector_learning_rate == 0.1
    assert term.heads((1, 2)).student.weight.shape == (4, D) and term.heads((1, 2)).queue is None
    with pytest.raises(ConfigError, match="does not have"):
        build_objective((ContrastiveConfig(layers=((9, 1),)),), shared_width=0, student=STUDENT, teacher=TEACHER)
