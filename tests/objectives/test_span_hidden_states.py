"""The term span_hidden_states against loops over plain numbers, and what it must not depend on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.layer_terms import HiddenStatesConfig, SpanHiddenStatesConfig
from distillab.errors import ConfigError, NumericsError, ShapeError
from distillab.models.activations import Activations, ActivationSpec, record_activations
from distillab.models.aligned_positions import align_batch
from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.structure import ModelShape, model_shape
from distillab.objectives.build import build_objective
from distillab.objectives.hidden_states import HiddenStates
from distillab.objectives.span_hidden_states import SpanHiddenStates, pooled
from tests.models.decoders import tiny_model
from tests.objectives.naive_similarity import naive_cosine, naive_mse, unit
from tests.objectives.samples import STUDENT, TEACHER, D, E, states_of
from tests.objectives.span_samples import SAMPLES, cut, paired_batch, spans_by_hand

each_loss = pytest.mark.parametrize("loss", ["mse", "cosine"])
each_pooling = pytest.mark.parametrize("pooling", ["mean", "last"])
ALL = list(range(len(SAMPLES)))


def span_term(
    loss: str = "mse", *, student: ModelShape = STUDENT, teacher: ModelShape = TEACHER, **settings: Any
) -> SpanHiddenStates:
    torch.manual_seed(7)
    return SpanHiddenStates(SpanHiddenStatesConfig(loss=loss, **settings), student=student, teacher=teacher)  # type: ignore[arg-type]


def both_sides(term: SpanHiddenStates, batch: TokenBatch) -> tuple[Activations, Activations]:
    return (
        states_of(batch, sorted(term.student_activations.hidden), D, seed=1),
        states_of(batch["teacher"], sorted(term.teacher_activations.hidden), E, seed=2),
    )


def _naive(term: SpanHiddenStates, loss: str, pooling: str, numbers: list[int]) -> tuple[float, int]:
    """Sum and count, sample by sample and span by span, from the texts alone."""
    total, count = 0.0, 0
    for number in numbers:
        prompt_s, answer_s, prompt_t, answer_t = map(cut, SAMPLES[number])
        spans_s, spans_t = spans_by_hand(prompt_s + answer_s, prompt_t + answer_t)
        batch = paired_batch([number])
        student, teacher = both_sides(term, batch)
        for span in sorted(set(spans_s)):
            ours = [place for place, of in enumerate(spans_s) if of == span]
            theirs = [place for place, of in enumerate(spans_t) if of == span]
            if min(ours) < len(prompt_s) or min(theirs) < len(prompt_t):
                continue
            count += 1
            for s_layer, t_layer in term.pairs:
                s = _pool(student.hidden[s_layer][0], ours, pooling)
                t = _pool(teacher.hidden[t_layer][0], theirs, pooling)
                if term.projector is not None:
                    weight = dict(term.projector.named_parameters())[f"s{s_layer}_t{t_layer}.weight"].double().tolist()
                    s = [sum(w * x for w, x in zip(row, unit(s), strict=True)) for row in weight]
                one = naive_mse if loss == "mse" else naive_cosine
                total += one(s if term.projector is not None else unit(s), t) / len(term.pairs)
    return total, count


def _pool(states_LD: Tensor, places: list[int], pooling: str) -> list[float]:
    states = [unit(states_LD[place].double().tolist()) for place in places]
    if pooling == "last":
        return states[-1]
    return [sum(values) / len(values) for values in zip(*states, strict=True)]


@each_loss
@each_pooling
@pytest.mark.parametrize("layers", ["last", "uniform", "embeddings", ((1, 1), (2, 3))])
def test_sum_and_count_are_those_of_a_naive_loop(loss: str, pooling: str, layers: Any) -> None:
    term = span_term(loss, pooling=pooling, layers=layers)
    for numbers in ([0], [2, 1, 5], ALL):
        batch = paired_batch(numbers)
        total, count = _naive(term, loss, pooling, numbers)
        value = term.total(*both_sides(term, batch), batch)
        assert value.shape == () and value.dtype == torch.float32
        assert value.item() == pytest.approx(total, rel=1e-5)
        assert term.count(batch) == count > 0


def test_the_spans_that_are_counted_are_those_read_off_by_eye() -> None:
    """cd e cd ab $ / a bcd h / efg / a $ / none / cd d cd f / ab / abc d; none of the prompts."""
    assert [span_term().count(paired_batch([number])) for number in ALL] == [5, 3, 1, 2, 0, 4, 1, 2]


@each_pooling
def test_pooled_states_are_those_of_a_naive_loop_in_the_order_of_the_spans(pooling: Any) -> None:
    batch = paired_batch([6, 2, 0])  # the first span of the batch is wanted, and tokens before it lie in none
    states_BLD = states_of(batch, [1], D, seed=1).hidden[1]
    found = pooled(states_BLD, batch, batch["alignment"].shared_S, pooling=pooling)
    places = [(0, [1, 2]), (1, [1]), *((2, places) for places in ([3, 4], [5], [6], [7, 8], [9]))]
    expected = [_pool(states_BLD[b], tokens, pooling) for b, tokens in places]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_span_that_one_side_does_not_score_in_full_is_left_out() -> None:
    term, batch = span_term(), paired_batch([0])
    full = term.total(*both_sides(term, batch), batch).item()
    ours, theirs = paired_batch([0]), paired_batch([0])
    ours["answer_mask"][0, 3] = False  # c of the first cd
    theirs["teacher"]["answer_mask"][0, 3] = False  # the teacher's whole cd
    for batch in (ours, theirs):
        batch["alignment"] = align_batch(batch, batch["teacher"])
    values = [term.total(*both_sides(term, one), one).item() for one in (ours, theirs)]
    assert values[0] == values[1] < full
    assert term.count(ours) == term.count(theirs) == 4


@each_loss
@each_pooling
def test_no_arrangement_of_the_samples_changes_sum_or_count(loss: str, pooling: str) -> None:
    """Batch split, order and padding of either side; the states of padding are NaN, so reading one would show."""
    term = span_term(loss, pooling=pooling, layers="uniform")

    def measured(*batches: TokenBatch) -> tuple[float, int]:
        totals = [term.total(*both_sides(term, batch), batch).item() for batch in batches]
        return sum(totals), sum(term.count(batch) for batch in batches)

    whole = measured(paired_batch(ALL))
    others = {
        "left": measured(paired_batch(ALL, student="left", teacher="left")),
        "one left": measured(paired_batch(ALL, teacher="left")),
        "order": measured(paired_batch(ALL[::-1], student="left")),
        "split": measured(paired_batch([3]), paired_batch([0, 4], student="left"), paired_batch([5, 1, 2, 6, 7])),
    }
    for name, (total, count) in others.items():
        assert (total, count) == (pytest.approx(whole[0], rel=1e-5), whole[1]), name


@each_loss
@each_pooling
def test_with_one_tokenisation_it_is_hidden_states_over_the_same_tokens(loss: str, pooling: str) -> None:
    """hidden_states reads where a token is predicted, one place before: its batch is the same, one place on."""
    batch = paired_batch(ALL, same=True)
    term = span_term(loss, pooling=pooling, layers="uniform")
    settings = HiddenStatesConfig(loss=loss, layers="uniform")  # type: ignore[arg-type]
    by_token = HiddenStates(settings, student=STUDENT, teacher=TEACHER)
    assert term.projector is not None and by_token.projector is not None
    by_token.projector.load_state_dict(term.projector.state_dict())
    student, teacher = both_sides(term, batch)

    def one_on(tensor: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)

    moved = TokenBatch(**{name: one_on(tensor) for name, tensor in batch.items() if isinstance(tensor, Tensor)})  # type: ignore[typeddict-item]
    longer = [
        Activations(hidden={n: torch.cat([s, s[:, :1]], dim=1) for n, s in side.hidden.items()})
        for side in (student, teacher)
    ]
    expected = by_token.total(*longer, moved)
    assert term.count(batch) == by_token.count(moved) > 0
    torch.testing.assert_close(term.total(student, teacher, batch), expected, rtol=1e-5, atol=0)


@each_loss
@each_pooling
def test_a_student_that_equals_its_teacher_has_no_loss(loss: str, pooling: str) -> None:
    term = span_term(loss, teacher=ModelShape(2, D, 2, 2, 3), pooling=pooling, layers="uniform")
    batch = paired_batch(ALL, same=True)
    student, _ = both_sides(term, batch)
    assert term.projector is None
    assert term.total(student, student, batch).item() == pytest.approx(0.0, abs=1e-5)


@each_loss
@each_pooling
def test_neither_a_layer_s_scale_nor_a_token_s_weighs(loss: str, pooling: str) -> None:
    term, batch = span_term(loss, pooling=pooling, layers="uniform"), paired_batch(ALL)
    student, teacher = both_sides(term, batch)
    expected = term.total(student, teacher, batch).item()
    for number, states in enumerate((*student.hidden.values(), *teacher.hidden.values())):
        generator = torch.Generator().manual_seed(number)
        states *= 10.0 ** torch.randint(-4, 4, (*states.shape[:2], 1), generator=generator)
    assert term.total(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)


@each_pooling
def test_exactly_the_tokens_of_shared_spans_get_a_gradient(pooling: str) -> None:
    term, batch = span_term(pooling=pooling), paired_batch([0, 1], student="left")
    student, teacher = both_sides(term, batch)
    states = student.hidden[STUDENT.blocks].nan_to_num_().requires_grad_()
    teacher.hidden[TEACHER.blocks].requires_grad_()
    term.total(student, teacher, batch).backward()
    assert states.grad is not None and teacher.hidden[TEACHER.blocks].grad is None
    touched = states.grad.abs().sum(dim=-1) > 0
    if pooling == "mean":
        assert torch.equal(touched, batch["answer_mask"])  # every answer token of these samples lies in a span
    else:  # c|d, e, cd, a|b, $ / a, bc|d, h: the first of two gets none
        assert touched[0].tolist() == [False] * 3 + [False, True, True, True, False, True, True]
        assert touched[1].tolist() == [False] * 4 + [False, False] + [True, False, True, True]


@each_loss
def test_a_batch_without_a_span_gives_zero_that_still_reaches_all_that_learns(loss: str) -> None:
    term, batch = span_term(loss, layers="uniform"), paired_batch([4])
    student, teacher = both_sides(term, batch)
    for states in student.hidden.values():
        states.requires_grad_()
    value = term.total(student, teacher, batch)
    assert term.count(batch) == 0 and value.item() == 0.0
    value.backward()
    assert term.projector is not None
    learning = [*student.hidden.values(), *term.projector.parameters()]
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in learning)


@each_pooling
def test_the_projector_starts_at_the_ridge_solution_over_the_spans(pooling: str) -> None:
    """No step of a gradient descent on the squares and the ridge leads lower than where it starts."""
    term, batch = span_term(pooling=pooling), paired_batch(ALL)
    student, teacher = both_sides(term, batch)
    random = term.total(student, teacher, batch).item()
    term.initialise(student, teacher, batch)
    assert term.total(student, teacher, batch).item() < random
    ours = torch.tensor(_units(student.hidden[STUDENT.blocks], batch, pooling), dtype=torch.float64)
    theirs = torch.tensor(_units(teacher.hidden[TEACHER.blocks], batch["teacher"], pooling), dtype=torch.float64)
    assert term.projector is not None
    (weight,) = (parameter.detach().double().requires_grad_() for parameter in term.projector.parameters())
    ridge = 0.01 * ours.pow(2).sum() / D * weight.pow(2).sum()
    ((ours @ weight.T - theirs).pow(2).sum() + ridge).backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-4


def _units(states_BLD: Tensor, side: TokenBatch, pooling: str) -> list[list[float]]:
    found = []
    for b in range(states_BLD.shape[0]):
        for span in sorted(set(side["spans"][b][side["answer_mask"][b]].tolist())):
            places = (side["spans"][b] == span).nonzero()[:, 0].tolist()
            found.append(unit(_pool(states_BLD[b], places, pooling)))
    return found


def test_an_orthogonal_start_is_kept_and_an_empty_batch_cannot_be_fitted() -> None:
    batch, empty = paired_batch(ALL), paired_batch([4])
    kept = span_term(projector_init="orthogonal")
    assert kept.projector is not None
    before = {name: tensor.clone() for name, tensor in kept.projector.state_dict().items()}
    kept.initialise(*both_sides(kept, batch), batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.projector.state_dict().items())
    term = span_term()
    with pytest.raises(NumericsError, match="cannot be fitted"):
        term.initialise(*both_sides(term, empty), empty)


def test_states_of_another_batch_a_single_tokenisation_and_wrong_settings_are_refused() -> None:
    term, batch = span_term(), paired_batch([0, 1])
    few = paired_batch([0])
    for of_student, of_teacher in ((batch, few), (few, batch)):
        student, teacher = both_sides(term, of_student)[0], both_sides(term, of_teacher)[1]
        with pytest.raises(ShapeError, match="do not fit together"):
            term.total(student, teacher, few)
    with pytest.raises(ShapeError, match="no alignment of two tokenisations"):
        term.count(TokenBatch(**{name: value for name, value in batch.items() if name != "alignment"}))  # type: ignore[typeddict-item]
    with pytest.raises(ConfigError, match="no projector"):
        span_term(teacher=ModelShape(4, D, 2, 2, 3), projector_learning_rate=1e-3)
    with pytest.raises(ConfigError, match="without a projector"):
        span_term(projector="none")


@each_loss
@each_pooling
def test_training_real_models_on_it_alone_brings_the_student_nearer(loss: str, pooling: str) -> None:
    student = tiny_model("llama", seed=1, num_hidden_layers=2).train()
    teacher = tiny_model("llama", seed=2, hidden_size=24, head_dim=6)
    torch.manual_seed(7)
    objective = build_objective(
        [SpanHiddenStatesConfig(loss=loss, pooling=pooling, projector_init="orthogonal")],  # type: ignore[arg-type]
        shared_width=0,
        student=model_shape(student),
        teacher=model_shape(teacher),
    )
    term = objective.activation_terms["span_hidden_states"]
    batch = paired_batch(ALL, teacher="left")
    target = _forward(teacher, term.teacher_activations, batch["teacher"])
    learning = [*student.parameters(), *(term.projector.parameters() if term.projector else ())]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    values = []
    for _ in range(30):
        value = term.total(_forward(student, term.student_activations, batch), target, batch) / term.count(batch)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0] and not math.isnan(values[-1])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def _forward(model: PreTrainedModel, inner: ActivationSpec, side: TokenBatch) -> Activations:
    with record_activations(model, inner) as found:
        model(**model_inputs(side, model.device, model=model))
    return found
