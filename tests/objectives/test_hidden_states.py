"""The term hidden_states against loops over plain numbers, and what it must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.errors import ShapeError
from distillab.models.activations import Activations, ActivationSpec, record_activations
from distillab.models.batch import TokenBatch
from distillab.models.inputs import model_inputs
from distillab.models.structure import ModelShape, model_shape
from distillab.objectives.hidden_states import HiddenStates
from tests.models.decoders import tiny_model
from tests.objectives.naive_similarity import naive_cka, naive_cosine, naive_mse, unit
from tests.objectives.samples import D, both_sides, hidden_term, sample_batch

LOSSES = ["mse", "cosine", "cka"]
each_loss = pytest.mark.parametrize("loss", LOSSES)
each_choice = pytest.mark.parametrize("positions", ["answer", "all"])


def _naive(term: HiddenStates, student: Activations, teacher: Activations, batch: TokenBatch) -> tuple[float, int]:
    """Sum and count, sequence by sequence, sample by sample, position by position."""
    settings, total, count = term.settings, 0.0, 0
    for s_layer, t_layer in term.pairs:
        weight = None
        if term.projector is not None:
            weight = dict(term.projector.named_parameters())[f"s{s_layer}_t{t_layer}.weight"].double().tolist()
        for b in range(batch["rows"].shape[0]):
            samples: list[list[int]] = []
            for t in range(batch["rows"].shape[1]):
                if not batch["attention_mask"][b, t]:
                    continue
                if batch["position_ids"][b, t] == 0:
                    samples.append([])
                predicts = t + 1 < batch["rows"].shape[1] and bool(batch["answer_mask"][b, t + 1])
                if settings.positions == "all" or predicts:
                    samples[-1].append(t)
            for places in samples:
                s = student.hidden[s_layer][b, places].double().tolist()
                t = teacher.hidden[t_layer][b, places].double().tolist()
                if settings.loss != "cka":
                    s = [unit(state) for state in s]
                if weight is not None:
                    s = [[sum(w * x for w, x in zip(row, state, strict=True)) for row in weight] for state in s]
                if settings.loss == "cka":
                    if len(places) >= 4:
                        total += len(places) * (1 - naive_cka(s, t))
                        count += len(places)
                    continue
                one = naive_mse if settings.loss == "mse" else naive_cosine
                total += sum(one(a, b) for a, b in zip(s, t, strict=True))
                count += len(places)
    return total / len(term.pairs), count // len(term.pairs)


# ---------------------------------------------------------------- value and count


@each_loss
@each_choice
@pytest.mark.parametrize("layers", ["last", "uniform", "embeddings", ((1, 1), (2, 3))])
def test_sum_and_count_are_those_of_a_naive_loop(loss: str, positions: str, layers: Any) -> None:
    term = hidden_term(loss, positions=positions, layers=layers)
    for batch in (sample_batch([[0], [1], [2], [3]]), sample_batch([[0, 1], [4, 3, 2]], side="left")):
        student, teacher = both_sides(term, batch)
        total, count = _naive(term, student, teacher, batch)
        value = term.total(student, teacher, batch)
        assert value.shape == () and value.dtype == torch.float32
        assert value.item() == pytest.approx(total, rel=1e-5)
        assert term.count(batch) == count > 0


def test_a_sample_too_short_for_cka_is_neither_counted_nor_summed() -> None:
    term = hidden_term("cka")
    assert [term.count(sample_batch([[number]])) for number in range(5)] == [6, 0, 4, 0, 9]  # exactly 4 are enough
    assert hidden_term("cka", positions="all").count(sample_batch([[1], [3]])) == 10
    short = sample_batch([[1, 3], [1]])
    student, teacher = both_sides(term, short)
    assert term.total(student, teacher, short).item() == 0.0


@each_loss
@each_choice
def test_no_arrangement_of_the_samples_changes_sum_or_count(loss: str, positions: str) -> None:
    """Batch split, padding side and packing; the states of padding are NaN, so reading one would show."""
    term = hidden_term(loss, positions=positions, layers="uniform")

    def measured(*batches: TokenBatch) -> tuple[float, int]:
        totals = [term.total(*both_sides(term, batch), batch).item() for batch in batches]
        return sum(totals), sum(term.count(batch) for batch in batches)

    whole = measured(sample_batch([[n] for n in range(5)]))
    others = {
        "left": measured(sample_batch([[n] for n in range(5)], side="left")),
        "split": measured(sample_batch([[0]]), sample_batch([[1], [2]], side="left"), sample_batch([[3], [4]])),
        "packed": measured(sample_batch([[4, 1, 0], [3, 2]])),
        "one line": measured(sample_batch([[0, 1, 2, 3, 4]], side="left")),
    }
    for name, (total, count) in others.items():
        assert (total, count) == (pytest.approx(whole[0], rel=1e-5), whole[1]), name


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_neither_a_layer_s_scale_nor_a_token_s_weighs(loss: str) -> None:
    """Also not the student's before the projector: Adam's steps would be too large or too small for its weights."""
    term, batch = hidden_term(loss, layers="uniform"), sample_batch([[0], [2], [4]])
    student, teacher = both_sides(term, batch)
    expected = term.total(student, teacher, batch).item()
    for number, states in enumerate((*student.hidden.values(), *teacher.hidden.values())):
        generator = torch.Generator().manual_seed(number)
        states *= 10.0 ** torch.randint(-4, 4, (*states.shape[:2], 1), generator=generator)
    assert term.total(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_same_row_packed_twice_in_a_line_is_two_samples() -> None:
    term = hidden_term("cka")
    once, twice = sample_batch([[0]]), sample_batch([[0, 0]])
    expected = 2 * term.total(*both_sides(term, once), once).item()
    assert term.total(*both_sides(term, twice), twice).item() == pytest.approx(expected, rel=1e-5)


@each_loss
@each_choice
def test_a_student_that_equals_its_teacher_has_no_loss(loss: str, positions: str) -> None:
    term = hidden_term(loss, teacher=ModelShape(2, D, 2, 2, 3), positions=positions, layers="uniform")
    batch = sample_batch([[0], [1], [2], [4]])
    student, _ = both_sides(term, batch)
    assert term.projector is None
    assert term.total(student, student, batch).item() == pytest.approx(0.0, abs=1e-5)


@each_loss
def test_a_batch_without_a_unit_gives_zero_that_still_reaches_all_that_learns(loss: str) -> None:
    """Processes that average their gradients wait for each other's: a missing one would be waited for for ever."""
    term = hidden_term(loss, layers="uniform")
    batch = sample_batch([[3]])
    student, teacher = both_sides(term, batch)
    for states in student.hidden.values():
        states.nan_to_num_().requires_grad_()
    value = term.total(student, teacher, batch)
    assert term.count(batch) == 0 and value.item() == 0.0
    value.backward()
    learning = [*student.hidden.values(), *(term.projector.parameters() if term.projector else ())]
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in learning)


def test_states_of_another_batch_are_refused() -> None:
    term, batch = hidden_term("mse"), sample_batch([[0], [1]])
    student, teacher = both_sides(term, batch)
    with pytest.raises(ShapeError, match="do not fit together"):
        term.total(student, teacher, sample_batch([[0]]))
    with pytest.raises(ShapeError, match="in one space"):
        hidden_term("mse", teacher=ModelShape(4, D, 2, 2, 3)).total(student, teacher, batch)


# ---------------------------------------------------------------- on real model classes


def _pair(**settings: Any) -> tuple[HiddenStates, PreTrainedModel, PreTrainedModel]:
    student = tiny_model("llama", seed=1, num_hidden_layers=2).train()
    teacher = tiny_model("llama", seed=2, hidden_size=24, head_dim=6).requires_grad_(False)
    torch.manual_seed(7)
    config = HiddenStatesConfig(**settings)
    return HiddenStates(config, student=model_shape(student), teacher=model_shape(teacher)), student, teacher


def _forward(model: PreTrainedModel, inner: ActivationSpec, batch: TokenBatch) -> Activations:
    with record_activations(model, inner) as found:
        model(**model_inputs(batch, model.device, model=model))
    return found


@each_loss
def test_gradient_reaches_lower_layers_and_projector_and_never_the_teacher(loss: str) -> None:
    term, student, teacher = _pair(loss=loss)
    teacher.requires_grad_(True)  # even a teacher that could learn must not
    batch = sample_batch([[0], [2], [4]])
    term.total(
        _forward(student, term.student_activations, batch), _forward(teacher, term.teacher_activations, batch), batch
    ).backward()
    first = student.model.layers[0].self_attn.q_proj.weight
    assert first.grad is not None and first.grad.abs().max() > 0
    assert student.model.embed_tokens.weight.grad is not None
    assert student.lm_head.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for parameter in term.projector.parameters() if term.projector else ():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


@each_loss
def test_the_same_gradients_under_gradient_checkpointing(loss: str) -> None:
    term, student, teacher = _pair(loss=loss, layers="uniform", positions="all")
    batch = sample_batch([[0], [2], [4]])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            student.activation_checkpointing_enable({"use_reentrant": False})
        student.zero_grad()
        term.total(
            _forward(student, term.student_activations, batch),
            _forward(teacher, term.teacher_activations, batch),
            batch,
        ).backward()
        gradients.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@each_loss
def test_models_in_bfloat16_are_compared_in_float32(loss: str) -> None:
    term, student, teacher = _pair(loss=loss)
    batch = sample_batch([[0], [2], [4]])
    student.bfloat16(), teacher.bfloat16()
    sides = _forward(student, term.student_activations, batch), _forward(teacher, term.teacher_activations, batch)
    assert all(states.dtype == torch.bfloat16 for side in sides for states in side.hidden.values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term.total(*sides, batch)
    total, _ = _naive(term, *sides, batch)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(total, rel=1e-4)
    value.backward()
    assert student.model.layers[0].self_attn.q_proj.weight.grad.dtype == torch.bfloat16


@each_loss
def test_training_on_it_alone_brings_the_student_nearer(loss: str) -> None:
    term, student, teacher = _pair(loss=loss, projector_init="orthogonal")
    batch = sample_batch([[0], [2], [4]])
    target = _forward(teacher, term.teacher_activations, batch)
    learning = [*student.parameters(), *(term.projector.parameters() if term.projector else ())]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    values = []
    for _ in range(30):
        value = term.total(_forward(student, term.student_activations, batch), target, batch) / term.count(batch)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]
