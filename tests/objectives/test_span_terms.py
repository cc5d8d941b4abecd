"""Terms on two tokenisations in one step of a real model: with each other, with any head, wherever rows stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distillab.config.terms import (
    CrossEntropyConfig,
    SortedProbabilitiesConfig,
    SpanLikelihoodConfig,
    TermConfig,
    TokenDivergenceConfig,
    VocabularyProjectionConfig,
)
from distillab.data.collation import Collator, IndexedRow
from distillab.errors import TeacherError
from distillab.models import chunking
from distillab.models.aligned_positions import align_batch, teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.objectives import build_objective
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.span_likelihood import SpanLikelihood
from distillab.objectives.step import Measured, measure
from distillab.teachers.signals import TeacherSignal
from tests.models.head_models import VOCABULARY, tiny_model
from tests.objectives.naive_projection import naive_projection
from tests.objectives.test_sorted_probabilities import naive_distance
from tests.objectives.test_span_likelihood import naive_likelihood
from tests.objectives.toy_pair import ROWS, TEACHER, TOY, D, collate
from tests.training.conftest import teacher as local_teacher

TERMS: tuple[TermConfig, ...] = (
    CrossEntropyConfig(),
    SpanLikelihoodConfig(temperature=2.0),
    VocabularyProjectionConfig(),
    SpanLikelihoodConfig(debias=False),
    SortedProbabilitiesConfig(),
    SortedProbabilitiesConfig(positions="boundaries", temperature=2.0),
    VocabularyProjectionConfig(form="common"),
)
NAIVE = {
    "span_likelihood_1": naive_likelihood({"temperature": 2.0, "debias": True}),
    "vocabulary_projection_1": naive_projection({"form": "projected", "divergence": "forward_kl"}),
    "span_likelihood_2": naive_likelihood({"temperature": 100.0, "debias": False}),
    "sorted_probabilities_1": naive_distance({"positions": "ordinal", "temperature": 1.0}),
    "sorted_probabilities_2": naive_distance({"positions": "boundaries", "temperature": 2.0}),
    "vocabulary_projection_2": naive_projection({"form": "common", "divergence": "forward_kl"}),
}
FACTORS = {"cross_entropy": 0.1, **{name: 0.2 + 0.1 * place for place, name in enumerate(NAIVE)}}
OBJECTIVE = build_objective(TERMS, shared_width=0, vocabularies=TOY.vocabularies())


def _measured(model: torch.nn.Module, batch: TokenBatch, **options: Any) -> Measured:
    signal = local_teacher().signal(teacher_batch(batch), OBJECTIVE.request)
    return measure(model, batch, OBJECTIVE, signal, factors=FACTORS, device=torch.device("cpu"), **options)


def _logits(model: torch.nn.Module, *, teacher: bool) -> dict[int, Tensor]:
    """Row index -> (L, vocabulary) float64, each row by itself."""
    found = {}
    for row in ROWS:
        ids = torch.tensor((row.teacher if teacher else row.student).input_ids).long()[None]
        found[row.index] = model(input_ids=ids).logits[0].double()
    return found


def _gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("kind", ["untied", "tied", "head bias", "soft cap"])
@pytest.mark.parametrize("chunk", [2, 100])
def test_all_together_equal_the_dense_computation(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * VOCABULARY)
    model = tiny_model(kind)
    student, teacher = _logits(model, teacher=False), _logits(local_teacher().model, teacher=True)
    expected = torch.zeros((), dtype=torch.float64)
    for row in ROWS:
        targets = torch.tensor(row.student.input_ids).long()[row.student.answer_mask]
        logp = student[row.index][:-1][row.student.answer_mask[1:]].log_softmax(-1)
        expected = expected - FACTORS["cross_entropy"] * logp.gather(1, targets[:, None]).sum()
    sums = {}
    for name, naive in NAIVE.items():
        total, count = naive(ROWS, student, teacher)
        sums[name] = float(total.detach())
        expected = expected + FACTORS[name] * total
        term = next(item.term for item in OBJECTIVE.terms if item.name == name)
        assert term.count(collate(ROWS)) == count
    dense = _gradients(model, expected)
    measured = _measured(model, collate(ROWS))
    for name, value in sums.items():
        assert float(measured.sums[name]) == pytest.approx(value, rel=2e-5, abs=1e-6), name
    loss = torch.stack(list(measured.losses.values())).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    ours = _gradients(model, loss)
    assert set(ours) == set(dense)
    for name, gradient in dense.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=2e-5 * float(gradient.abs().max()), msg=name)


def test_apart_and_split_give_the_same() -> None:
    model = tiny_model("untied")
    together = _measured(model, collate(ROWS))
    expected = _gradients(model, torch.stack(list(together.losses.values())).sum())
    apart = [
        _measured(model, collate(rows, "left", "right"), per_term_backward=True)
        for rows in ([ROWS[2], ROWS[0]], [ROWS[3], ROWS[1]])
    ]
    for name, total in together.sums.items():
        torch.testing.assert_close(apart[0].sums[name] + apart[1].sums[name], total, rtol=1e-5, atol=1e-6, msg=name)
    ours = _gradients(model, torch.stack([loss for part in apart for loss in part.losses.values()]).sum())
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


def test_rows_without_any_span_count_nothing() -> None:
    rows = [TOY.row(0, "a", "b"), TOY.row(1, "1", "2")]
    for row in rows:
        row.student_spans[:] = -1
        row.teacher_spans[:] = -1
    batch = collate(rows)
    counts = {item.name: item.term.count(batch) for item in OBJECTIVE.terms}
    # the n-th token is still the n-th token; and what the teacher does not say is learned from the text
    counting = {"cross_entropy", "sorted_probabilities_1", "vocabulary_projection_1", "vocabulary_projection_2"}
    assert {name for name, count in counts.items() if count} == counting
    measured = _measured(tiny_model("untied"), batch)
    assert {name for name, total in measured.sums.items() if float(total)} == counting
    torch.stack(list(measured.losses.values())).sum().backward()


def test_a_pass_over_no_position_gives_nothing() -> None:
    batch = collate([ROWS[0]])
    for side in (batch, batch["teacher"]):
        side["answer_mask"][:] = False
        side["labels"][:] = -100
    batch["alignment"] = align_batch(batch, batch["teacher"])
    term = OBJECTIVE.token_terms["span_likelihood_1"]
    assert isinstance(term, SpanLikelihood) and term.count(batch) == 0
    weight, hidden = torch.randn(VOCABULARY, D, requires_grad=True), torch.zeros(0, D, requires_grad=True)
    scores = local_teacher().signal(batch["teacher"], OBJECTIVE.request)
    work = ChunkedLoss(
        head=OutputHead(weight),
        targets_N=torch.zeros(0, dtype=torch.int64),
        teacher=None,
        terms={"t": term},
        factors={"t": 1.0},
        reduce_spans={"t": lambda observed: term.reduce_spans(observed, batch, scores)},
    )
    loss = work.loss(hidden)
    loss.backward()
    assert float(loss.detach()) == 0.0 and weight.grad is not None and not bool(weight.grad.any())


def test_a_teacher_of_other_tokens_is_not_compared_id_by_id() -> None:
    batch = collate(ROWS[:1])
    objective = build_objective([TokenDivergenceConfig()], shared_width=len(TEACHER))
    signal = local_teacher().signal(batch["teacher"], objective.request)
    with pytest.raises(TeacherError, match="read other tokens"):
        measure(
            tiny_model("untied"),
            batch,
            objective,
            signal,
            factors={"token_divergence": 1.0},
            device=torch.device("cpu"),
        )


def test_terms_on_two_tokenisations_refuse_a_batch_of_one() -> None:
    batch = Collator(0)([IndexedRow(row.index, row.student) for row in ROWS])
    objective = build_objective([VocabularyProjectionConfig()], shared_width=0, vocabularies=TOY.vocabularies())
    with pytest.raises(TeacherError, match="reads two tokenisations, and the batch has one"):
        measure(
            tiny_model("untied"),
            batch,
            objective,
            TeacherSignal(scores=local_teacher().signal(batch, objective.request).scores),
            factors={"vocabulary_projection": 1.0},
            device=torch.device("cpu"),
        )
    with pytest.raises(TeacherError, match="vocabularies of both"):
        build_objective([SpanLikelihoodConfig()], shared_width=0)
