"""The term dual_space against loops over single positions in float64, what learns by it, and what it must not know."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distillab.config.terms import DualSpaceConfig
from distillab.data.collation import Collator
from distillab.data.paired import PairedCollator
from distillab.errors import NumericsError, TeacherError
from distillab.models import chunking
from distillab.models.activations import Activations
from distillab.models.aligned_positions import align_batch
from distillab.models.batch import TokenBatch
from distillab.models.structure import ModelShape
from distillab.objectives.build import build_objective
from distillab.objectives.cross_attention import cross_layout
from distillab.objectives.dual_space import DualSpace
from distillab.objectives.term import ModelOutputs
from tests.objectives.dual_space_samples import (
    ROWS,
    E,
    V,
    World,
    dual_space_term,
    ends,
    fitted_term,
    has_read_no_more,
    naive,
    positions,
    world,
)
from tests.objectives.toy_pair import TOY, collate

Attention = Literal["causal", "full"]
each_attention = pytest.mark.parametrize("attention", ["causal", "full"])


def _weights(term: DualSpace) -> dict[str, Tensor]:
    assert term.projector is not None
    return {name: p.detach().double().requires_grad_() for name, p in term.projector.named_parameters()}


def _run(term: DualSpace, models: World, *batches: TokenBatch) -> tuple[float, int, dict[str, Tensor]]:
    """Sum, count, and the gradients of all that learns; fails where anything else has one."""
    assert term.projector is not None
    term.projector.zero_grad()
    total = torch.stack([term.total(*ends(models, batch), batch) for batch in batches]).sum()
    assert total.shape == () and total.dtype == torch.float32
    total.backward()
    gradients = _gradients(models)
    gradients.update({name: p.grad.clone() for name, p in term.projector.named_parameters() if p.grad is not None})
    assert len([name for name, _ in term.projector.named_parameters() if name in gradients]) == 6
    return total.item(), sum(term.count(batch) for batch in batches), gradients


def _gradients(models: World) -> dict[str, Tensor]:
    found = {}
    for item in fields(models):
        value = getattr(models, item.name)
        leaves = {f"{item.name} {row}": leaf for row, leaf in value.items()} if isinstance(value, dict) else None
        for name, leaf in (leaves or {item.name: value}).items():
            if leaf.grad is not None:
                found[name] = leaf.grad
    return found


def _assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor], *, tolerance: float = 1e-4) -> None:
    assert set(ours) == set(expected)
    for name, gradient in expected.items():
        size = max(1e-6, float(gradient.abs().max()))
        torch.testing.assert_close(
            ours[name].double(), gradient.double(), rtol=tolerance, atol=tolerance * size, msg=lambda m, n=name: n + m
        )


# ---------------------------------------------------------------- the naive reference


@each_attention
@pytest.mark.parametrize("temperature", [2.0, 0.7])
@pytest.mark.parametrize("chunk", [3, 1000])
def test_sum_count_and_every_gradient_are_those_of_naive_loops(
    attention: Attention, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * V)
    term = fitted_term(attention=attention, temperature=temperature)
    total, count, gradients = _run(term, world(), collate(ROWS, "left", "right"))
    models, weights = world().in_float64(), _weights(term)
    parts = naive(models, weights, ROWS, temperature=temperature, causal=attention == "causal")
    assert 3 < parts.right < parts.count - 3
    assert total == pytest.approx(parts.total.item(), rel=1e-5)
    assert count == parts.count < sum(int(row.student.answer_mask.sum()) for row in ROWS)
    parts.total.backward()
    expected = _gradients(models) | {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    _assert_close(gradients, expected)
    # embeddings, and all of the teacher, get none
    assert {name.split()[0] for name in gradients if not name.startswith(("query", "to_"))} == {
        "student_hidden",
        "student_head",
    }


@pytest.mark.parametrize("part", ["ce", "student_space", "teacher_space"])
def test_each_part_moves_what_the_formula_says(part: str) -> None:
    """Of the loops, which the gradients of the term equal."""
    term, models = fitted_term(), world().in_float64()
    weights = _weights(term)
    getattr(naive(models, weights, ROWS, temperature=2.0, causal=True), part).backward()
    moved = {name.split()[0].split(".")[0] for name, gradient in _gradients(models).items() if bool(gradient.any())}
    moved |= {name.split(".")[0] for name, w in weights.items() if w.grad is not None and bool(w.grad.any())}
    assert (
        moved
        == {
            "ce": {"query", "to_student"},
            "student_space": {"student_hidden", "student_head"},
            "teacher_space": {"query", "to_teacher", "student_hidden"},
        }[part]
    )


def test_where_no_prediction_is_right_the_student_learns_in_the_teachers_space_alone() -> None:
    term = fitted_term()
    assert term.projector is not None
    linear = term.projector.get_submodule("to_student")
    models = world()
    with torch.no_grad():
        linear.weight.zero_()  # type: ignore[operator, union-attr]
        linear.bias.copy_(10 * models.student_head[0])  # type: ignore[operator, union-attr]
    assert int((models.student_head[:V] @ models.student_head[0]).argmax()) == 0  # <pad> follows nowhere
    _, _, gradients = _run(term, models, collate(ROWS))
    assert not gradients["student_head"].any()
    assert all(gradients[f"student_hidden {row.index}"].any() for row in ROWS)


# ---------------------------------------------------------------- what it must not depend on


@each_attention
def test_no_arrangement_of_the_rows_changes_sum_count_or_gradients(attention: Attention) -> None:
    term = fitted_term(attention=attention)
    whole = _run(term, world(), collate(ROWS))
    packing = PairedCollator(Collator(0, "right", 20), Collator(0, "left", 23))
    packed = packing(ROWS)
    orders = [[int(row) for row in side["rows"][side["position_ids"] == 1]] for side in (packed, packed["teacher"])]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert packed["input_ids"].shape[0] < len(ROWS) and packed["teacher"]["input_ids"].shape[0] < len(ROWS)
    for batches in (
        [collate(ROWS, "left", "left")],
        [collate([ROWS[place] for place in (2, 0, 3, 4, 1)], "right", "left")],
        [collate([ROWS[3]]), collate([ROWS[4], ROWS[0], ROWS[2]], "left"), collate([ROWS[1]])],
        [packed],
        [packing([ROWS[3], ROWS[1], ROWS[0]]), collate([ROWS[2], ROWS[4]])],
    ):
        total, count, gradients = _run(term, world(), *batches)
        assert total == pytest.approx(whole[0], rel=1e-5)
        assert count == whole[1]
        _assert_close(gradients, whole[2])


def test_a_batch_without_a_unit_gives_zero_that_still_reaches_all_that_learns() -> None:
    nowhere = collate(ROWS[:2])
    for side in (nowhere, nowhere["teacher"]):
        side["spans"] = torch.full_like(side["input_ids"], -1)
    nowhere["alignment"] = align_batch(nowhere, nowhere["teacher"])
    unanswered = collate(ROWS[:2])
    for side in (unanswered, unanswered["teacher"]):
        side["answer_mask"][:] = False
        side["labels"][:] = -100
    unanswered["alignment"] = align_batch(unanswered, unanswered["teacher"])
    for batch in (nowhere, unanswered):
        total, count, gradients = _run(fitted_term(), world(), batch)
        assert total == 0.0 and count == 0
        assert {"student_head", "student_hidden 0", "query.weight", "to_student.bias"} <= set(gradients)
        assert all(not gradient.any() for gradient in gradients.values())


def test_scale_of_embeddings_and_of_the_teachers_states_does_not_count() -> None:
    """But in the teacher's own distribution."""
    term, models, batch = fitted_term(), world(), collate(ROWS)
    student, teacher = ends(models, batch)
    expected = term.total(student, teacher, batch).item()
    for end in (student, teacher):
        end.activations.hidden[0] = 100.0 * end.activations.hidden[0]
    larger = replace(teacher, hidden_ND=7.0 * teacher.hidden_ND, head=replace(teacher.head, multiplier=1 / 7.0))
    term.projector.get_submodule("to_teacher").weight.data *= 7.0  # type: ignore[union-attr, operator]
    term.projector.get_submodule("to_teacher").bias.data *= 7.0  # type: ignore[union-attr, operator]
    assert term.total(student, larger, batch).item() == pytest.approx(expected, rel=1e-4)


def test_bfloat16_stays_near_float32() -> None:
    term, models, batch = fitted_term(), world(), collate(ROWS)
    expected = term.total(*ends(models, batch), batch).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert term.total(*ends(models, batch), batch).item() == pytest.approx(expected, rel=3e-2)
    halves = [
        ModelOutputs(
            end.hidden_ND.bfloat16(),
            replace(end.head, weight_VD=end.head.weight_VD.bfloat16()),
            Activations(hidden={0: end.activations.hidden[0].bfloat16()}),
        )
        for end in ends(models, batch)
    ]
    total = term.total(halves[0], halves[1], batch)
    assert total.dtype == torch.float32 and total.item() == pytest.approx(expected, rel=3e-2)


# ---------------------------------------------------------------- what it must not know


def _states(term: DualSpace, models: World, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    layout = cross_layout(batch, causal=term.settings.attention == "causal")
    with torch.no_grad():
        return term._projected(*ends(models, batch), batch, layout)


@each_attention
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.index}")
def test_a_later_token_changes_nothing_before_it(attention: Attention, row: Any) -> None:
    """Neither what a student's position is taught, nor the states that speak for a teacher's position."""
    term, batch = fitted_term(attention=attention), collate([row])
    ours, theirs = positions(row, teacher=False), positions(row, teacher=True)
    before = _states(term, world(), batch)
    for place, j in enumerate(theirs):
        other = world()  # the teacher's state before token j + 1, and that token, are others
        for states, at in ((other.teacher_hidden, j), (other.teacher_embeddings, j + 1)):
            states[row.index].data[at] = torch.randn(E)
        changed = (_states(term, other, batch)[0] - before[0]).abs().amax(dim=1) > 1e-6
        own = [row.student_spans[i + 1] >= row.teacher_spans[j + 1] for i in ours]
        assert changed.tolist() == (own if attention == "causal" else [True] * len(ours)), place
    for i in ours:
        other = world()
        other.student_hidden[row.index].data[i] += 1.0
        changed = (_states(term, other, batch)[1] - before[1]).abs().amax(dim=1) > 1e-6
        allowed = [has_read_no_more(row, i, j) for j in theirs]
        assert changed.tolist() == (allowed if attention == "causal" else [True] * len(theirs)), i


# ---------------------------------------------------------------- projectors and settings


def test_the_projectors_start_where_both_models_meet() -> None:
    start, fitted, batch = dual_space_term(), fitted_term(), collate(ROWS)
    values = [term.total(*ends(world(), batch), batch).item() for term in (start, fitted)]
    assert values[1] < 0.8 * values[0]
    models = world()
    layout = cross_layout(batch, causal=True)
    before = _states(start, models, batch)[1] - ends(models, batch)[1].hidden_ND[layout.teacher.kept_N]
    after = _states(fitted, models, batch)[1] - ends(models, batch)[1].hidden_ND[layout.teacher.kept_N]
    assert after.norm() < 0.8 * before.norm()


def test_a_warm_up_batch_without_a_span_is_refused() -> None:
    batch = collate(ROWS[:1])
    for side in (batch, batch["teacher"]):
        side["answer_mask"][:] = False
        side["labels"][:] = -100
    batch["alignment"] = align_batch(batch, batch["teacher"])
    with pytest.raises(NumericsError, match="cannot be initialised"):
        dual_space_term().initialise(*ends(world(), batch), batch)


def test_settings_and_what_is_needed() -> None:
    for wrong in ({"temperature": 0.0}, {"attention": "none"}, {"projector_learning_rate": 0.0}):
        with pytest.raises(ValidationError):
            DualSpaceConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match="needs a teacher model"):
        build_objective([DualSpaceConfig()], shared_width=0, vocabularies=TOY.vocabularies())
    shape = {"student": ModelShape(2, 8, 2, 2, 4), "teacher": ModelShape(2, 6, 2, 2, 3)}
    with pytest.raises(TeacherError, match="vocabularies of both"):
        build_objective([DualSpaceConfig()], shared_width=0, **shape)
    objective = build_objective([DualSpaceConfig()], shared_width=0, vocabularies=TOY.vocabularies(), **shape)
    (term,) = objective.head_terms.values()
    assert (term.access, term.tokens, term.name) == ("internals", "aligned", "dual_space")
    assert not objective.activation_terms and not objective.token_terms
    request = objective.request
    assert request.activations.hidden == {0} and request.hidden_at == {"all"} and len(request.scores) == 1
