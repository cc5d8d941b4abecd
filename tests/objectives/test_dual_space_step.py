"""The term dual_space in one step of two real models, beside other terms, and read from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from distillab.config.cache import FullKind, HiddenStatesKind
from distillab.config.terms import CrossEntropyConfig, DualSpaceConfig, SortedProbabilitiesConfig, TermConfig
from distillab.errors import TeacherError
from distillab.models import chunking
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.objectives.dual_space import DualSpace
from distillab.objectives.step import Measured, measure
from distillab.objectives.term import Objective
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import FullLogits, TeacherSignal
from distillab.training.projector_init import initialise
from tests.models.head_models import VOCABULARY, tiny_model
from tests.objectives.dual_space_samples import ROWS, W, World, naive
from tests.objectives.toy_pair import TOY, collate
from tests.teachers.cache_building import build, cached, peaked_teacher
from tests.training.conftest import teacher as local_teacher

FACTORS = {"cross_entropy": 0.3, "dual_space": 0.2, "sorted_probabilities": 0.5}
CPU = torch.device("cpu")


def _student(kind: str) -> PreTrainedModel:
    """With distributions that are not flat, so that the divergences are not 0."""
    model = tiny_model(kind)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    return model


def _objective(student: torch.nn.Module, *beside: TermConfig, **settings: Any) -> tuple[Objective, DualSpace]:
    torch.manual_seed(3)
    objective = build_objective(
        [*beside, DualSpaceConfig(**settings)],
        shared_width=0,
        student=model_shape(student),
        teacher=peaked_teacher().identity.shape,
        vocabularies=TOY.vocabularies(),
    )
    term = objective.head_terms["dual_space"]
    assert isinstance(term, DualSpace)
    return objective, term


def _measured(
    model: torch.nn.Module, objective: Objective, batch: TokenBatch, teacher: SignalSource | None = None, **options: Any
) -> Measured:
    signal = (teacher or peaked_teacher()).signal(batch["teacher"], objective.request)
    factors = {name: FACTORS[name] for name in objective.names}
    return measure(model, batch, objective, signal, factors=factors, device=CPU, **options)


def _world(student: PreTrainedModel) -> World:
    """Of both models' own hidden states, row by row, in float64, with their graph."""
    found: list[Any] = []
    for model, teacher in ((student, False), (peaked_teacher().model, True)):
        hidden, embeddings = {}, {}
        for row in ROWS:
            ids = torch.tensor((row.teacher if teacher else row.student).input_ids).long()[None]
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            hidden[row.index], embeddings[row.index] = states[-1][0].double(), states[0][0].double()
        found += [hidden, embeddings, model.get_output_embeddings().weight.double()]
    return World(*found)


def _predict_often(named: dict[str, torch.nn.Parameter], student: PreTrainedModel) -> None:
    """Let p^{t→s} lean towards the commonest token, so that it is right now and then, and not what the student says."""
    targets = torch.cat([torch.tensor(row.student.input_ids[row.student.answer_mask]) for row in ROWS])
    with torch.no_grad():
        named["to_student.weight"].mul_(0.1)
        named["to_student.bias"].copy_(student.get_output_embeddings().weight[int(targets.mode().values)] * 3)


def _gradients(modules: list[torch.nn.Module], loss: Tensor) -> dict[str, Tensor]:
    for module in modules:
        module.zero_grad()
    loss.backward()
    named = [(name, p) for module in modules for name, p in module.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("kind", ["untied", "tied"])
@pytest.mark.parametrize("apart", [False, True])
def test_the_whole_step_equals_the_loops(kind: str, apart: bool) -> None:
    model = _student(kind)
    objective, term = _objective(model, CrossEntropyConfig())
    initialise(objective, model, peaked_teacher(), collate(ROWS), device=CPU)
    assert term.projector is not None
    named = dict(term.projector.named_parameters())
    _predict_often(named, model)
    models = _world(model)
    parts = naive(models, {name: p.double() for name, p in named.items()}, ROWS, temperature=2.0, causal=True)
    assert min(parts.student_space.item(), parts.teacher_space.item()) > 0.1 and 3 < parts.right < parts.count
    expected = FACTORS["dual_space"] * parts.total
    for row in ROWS:
        targets = torch.tensor(row.student.input_ids).long()[row.student.answer_mask]
        logits = models.student_hidden[row.index] @ models.student_head.T
        logp = logits[:-1][row.student.answer_mask[1:]].log_softmax(-1)
        expected = expected - FACTORS["cross_entropy"] * logp.gather(1, targets[:, None]).sum()
    modules = [model, term.projector]
    dense = _gradients(modules, expected)
    measured = _measured(model, objective, collate(ROWS, "left"), per_term_backward=apart)
    loss = torch.stack(list(measured.losses.values())).sum()
    assert float(measured.sums["dual_space"]) == pytest.approx(parts.total.item(), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(expected.item(), rel=1e-5)
    ours = _gradients(modules, loss)
    assert set(ours) == set(dense)
    for name, gradient in dense.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=2e-5 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("kind", ["gpt2", "head bias", "logit scale", "soft cap"])
def test_any_head_and_any_split_give_one_sum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _student(kind)
    objective, _ = _objective(model, SortedProbabilitiesConfig())
    initialise(objective, model, peaked_teacher(), collate(ROWS), device=CPU)
    whole = _measured(model, objective, collate(ROWS))
    monkeypatch.setattr(chunking, "LEAST_ROWS", 2)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    parts = [_measured(model, objective, collate(rows, "left")) for rows in (ROWS[:1], ROWS[1:])]
    for name in objective.names:
        assert sum(float(part.sums[name]) for part in parts) == pytest.approx(float(whole.sums[name]), rel=1e-4)


class _Logits(TorchDispatchMode):
    """Notes the most rows of any tensor as wide as the vocabulary that is made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dim() >= 2 and made.shape[-1] == VOCABULARY:
            self.rows = max(self.rows, made.numel() // made.shape[-1])
        return made


def test_no_tensor_of_size_tokens_by_vocabulary_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", 3)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    model = tiny_model("untied")
    objective, term = _objective(model)
    assert term.count(collate(ROWS)) > 20 and model.config.hidden_size < VOCABULARY
    teacher = local_teacher(tiny_model("untied", seed=9))
    with _Logits() as seen:
        losses = _measured(model, objective, collate(ROWS), teacher).losses
        losses["dual_space"].backward()
    assert seen.rows in (3, model.config.hidden_size)  # a chunk; the head's weight transposed


def test_a_cache_of_the_teacher_says_the_same(tmp_path: Path) -> None:
    model = _student("untied")
    objective, _ = _objective(model)
    kinds = [FullKind(), HiddenStatesKind(layers=(0,), positions="all", store="exact")]
    stored = cached(build(tmp_path, peaked_teacher(), [row.teacher for row in ROWS], kinds, width=W))
    stored.require(objective.request, packing=False)
    initialise(objective, model, stored, collate(ROWS), device=CPU)
    batch = collate(ROWS[1:], "left", "right")
    live, again = (_measured(model, objective, batch, source) for source in (peaked_teacher(), stored))
    assert float(again.sums["dual_space"]) == pytest.approx(float(live.sums["dual_space"]), rel=1e-5)
    for kind, missing in ((kinds[0], "hidden states of the layers"), (kinds[1], "whole distribution")):
        lacking = cached(build(tmp_path / kind.kind, peaked_teacher(), [ROWS[0].teacher], [kind], width=W))
        with pytest.raises(TeacherError, match="does not hold") as refusal:
            lacking.require(objective.request, packing=False)
        assert missing in str(refusal.value)


def test_a_teacher_that_gives_no_head_is_refused() -> None:
    model = tiny_model("untied")
    objective, _ = _objective(model)
    batch = collate(ROWS)
    for signal, given in ((TeacherSignal(), "no scores"), (TeacherSignal(FullLogits(torch.zeros(3, 5))), "FullLogits")):  # type: ignore[arg-type]
        with pytest.raises(TeacherError, match=given):
            measure(model, batch, objective, signal, factors=FACTORS, device=CPU)
