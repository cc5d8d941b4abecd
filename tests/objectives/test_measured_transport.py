"""The teacher carried over to the student's tokens, against a naive computation by strings; and what it equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillab.alignment.projection import VocabularyProjection
from distillab.config.terms import (
    MeasuredTransportConfig,
    SampledDivergenceConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
    TopKTransportConfig,
    TransportConfig,
)
from distillab.data.vocabularies import Vocabularies
from distillab.divergences.fused import Probabilities
from distillab.errors import ConfigError, TeacherError
from distillab.models import chunking
from distillab.objectives.build import build_objective
from distillab.objectives.carried import Carrier
from distillab.objectives.outcomes import Outcomes
from distillab.objectives.term import StudentScores, TokenTerm
from distillab.objectives.tile_scores import TileScores
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import FullLogits
from tests.objectives.naive_transport import COUNTED, V, W, naive_transport
from tests.objectives.toy_pair import (
    EOS,
    ROWS,
    STUDENT,
    TEACHER,
    TOY,
    D,
    Tokenizer,
    Toy,
    assert_same,
    collate,
    numbers_for,
    ours,
    reference,
)

DIVERGENCES: list[dict[str, Any]] = [
    {"divergence": "forward_kl"},
    {"divergence": "jensen_shannon", "teacher_weight": 0.3, "temperature": 0.7},
    {"divergence": "total_variation", "temperature": 2.0, "rescale_by_temperature_squared": True},
]
SAME = Toy(Tokenizer(TEACHER), Tokenizer(TEACHER))


def term_of(settings: TransportConfig, vocabularies: Vocabularies) -> TokenTerm:
    term = build_objective([settings], shared_width=0, vocabularies=vocabularies).terms[0].term
    assert isinstance(term, TokenTerm)
    return term


# ---------------------------------------------------------------- by strings


CASES: list[tuple[TransportConfig, dict[str, Any]]] = [
    (MeasuredTransportConfig(**values, rest=rest, form=form, prior=prior), values)
    for values in DIVERGENCES
    for rest, form, prior in (
        ("text", "outcomes", None),
        ("none", "outcomes", 0.5),
        ("text", "measured", None),
        ("none", "measured", 0.5),
        ("text", "longest_prefix", None),
    )
] + [
    (TopKTransportConfig(**values, k=3, rest=rest, form=form), values)
    for values in DIVERGENCES
    for rest in ("text", "none")
    for form in ("outcomes", "measured")
]


def case_name(case: tuple[TransportConfig, dict[str, Any]]) -> str:
    settings, _ = case
    return f"{settings.kind}-{settings.form}-{settings.rest}-{settings.divergence}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_equals_a_naive_computation_by_strings(
    case: tuple[TransportConfig, dict[str, Any]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * (V + 3))
    settings, values = case
    hidden = numbers_for(ROWS, seed=0, teacher=False, width=D)
    head = torch.randn(V + 3, D, generator=torch.Generator().manual_seed(0))
    teacher = numbers_for(ROWS, seed=1, teacher=True, width=W + 3)
    naive = naive_transport(
        values,
        rest=settings.rest == "text",
        form=settings.form,
        prior=settings.prior or 2.0,
        k=getattr(settings, "k", None),
    )
    term = term_of(settings, TOY.vocabularies(COUNTED))
    batches = [collate(ROWS[:2], "left"), collate(ROWS[2:], theirs="left")]
    found = ours(term, batches, hidden, head, teacher)
    # the student has more columns than ids: these get no probability
    assert_same(found, reference(naive, ROWS, hidden, head, teacher))


# ---------------------------------------------------------------- one tokenizer on both sides


def _both(settings: Any, own: Any, scale: float, students: Callable[..., StudentScores]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(9, W, generator=generator) for _ in range(2))
    targets = torch.randint(0, W, (9,), generator=generator)
    found = []
    vocabularies = SAME.vocabularies([SAME.row(0, "a ", "abc 12 ab1")])
    for made in (settings, own):
        torch.manual_seed(0)  # of the draws
        leaf = student.clone().requires_grad_()
        has = torch.ones(9, dtype=torch.bool)
        aligned = AlignedTokens(has, FullLogits(teacher), targets, torch.zeros(9), has)
        if isinstance(made, TransportConfig):
            value = term_of(made, vocabularies).per_position(students(leaf, targets), aligned)
        else:
            term = build_objective([made], shared_width=W).terms[0].term
            assert isinstance(term, TokenTerm)
            value = term.per_position(students(leaf, targets), FullLogits(teacher))
        value.sum().backward()
        assert leaf.grad is not None
        found.append((value.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("rest", ["text", "none"])
@pytest.mark.parametrize(
    "values",
    [*DIVERGENCES, {"divergence": "reverse_kl"}, {"divergence": "adaptive_kl", "head_mass": 0.5}],
    ids=lambda v: v["divergence"],
)
def test_with_one_tokenizer_it_is_token_divergence_bit_by_bit(values: dict[str, Any], rest: str, scale: float) -> None:
    found = _both(MeasuredTransportConfig(**values, rest=rest), TokenDivergenceConfig(**values), scale, StudentScores)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("values", DIVERGENCES, ids=lambda v: v["divergence"])
def test_with_one_tokenizer_top_k_is_top_k(values: dict[str, Any]) -> None:
    found = _both(TopKTransportConfig(**values, k=5), TopKDivergenceConfig(**values, k=5), 1.0, StudentScores)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_with_one_tokenizer_draws_are_draws() -> None:
    found = _both(MeasuredTransportConfig(samples=7), SampledDivergenceConfig(samples=7), 1.0, StudentScores)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["outcomes", "measured"])
def test_draws_have_the_gradient_of_the_whole_distribution_in_expectation(form: Any) -> None:
    vocabularies = TOY.vocabularies(COUNTED)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, V, generator=generator), torch.randn(1, W, generator=generator)
    has = torch.ones(1, dtype=torch.bool)
    aligned = AlignedTokens(has, FullLogits(teacher), torch.zeros(1, dtype=torch.int64), torch.zeros(1), has)
    torch.manual_seed(0)
    gradients = []
    for settings in (
        MeasuredTransportConfig(form=form, rest="none"),
        MeasuredTransportConfig(form=form, rest="none", samples=40_000),
    ):
        leaf = student.clone().requires_grad_()
        scores = StudentScores(leaf, torch.zeros(1, dtype=torch.int64))
        term_of(settings, vocabularies).per_position(scores, aligned).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.0, atol=0.01)


def test_top_k_that_reach_every_token_of_the_student_are_all_there_is() -> None:
    toy = Toy(Tokenizer(["a", "b"]), Tokenizer(["aa", "ab", "ba", "bb", "a", "b"]))
    settings = TopKTransportConfig(form="measured", k=4, rest="none")
    term = term_of(settings, toy.vocabularies([toy.row(0, "a", "abba", end=False)]))
    p, q = torch.tensor([[0.3, 0.2, 0.25, 0.1, 0.09, 0.06]]), torch.tensor([[0.4, 0.6]])
    one = torch.ones(1, dtype=torch.bool)
    ids = torch.zeros(1, dtype=torch.int64)
    value = term.per_position(
        StudentScores(q.log(), ids), AlignedTokens(one, FullLogits(p.log()), ids, torch.zeros(1), one)
    )
    carried = torch.tensor([0.5, 0.35]) / 0.85
    assert float(value) == pytest.approx(float((carried * (carried / q[0]).log()).sum()), abs=1e-6)


# ---------------------------------------------------------------- the map


def _kernel(entries: Sequence[tuple[int, int, float]], *, teacher: int, student: int) -> VocabularyProjection:
    sizes = np.bincount([v for v, _, _ in entries], minlength=teacher)
    return VocabularyProjection(
        row_ends=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        student_ids=np.array([u for _, u, _ in entries], np.int64),
        weights=np.array([weight for _, _, weight in entries], np.float32),
        how=np.zeros(teacher, np.uint8),
        student_width=student,
        teacher_fingerprint="t",
        student_fingerprint="s",
    )


def test_mass_is_kept_where_thousands_of_tokens_come_together() -> None:
    """In float32, within a few roundings of the sum in float64; also where probabilities are too small for it."""
    width = 20_000
    entries = [(v, v % 3, 0.75) if part == 0 else (v, 3, 0.25) for v in range(width) for part in (0, 1)]
    carrier = Carrier(_kernel(entries, teacher=width, student=4), torch.device("cpu"))
    logits = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    logits[1, ::3] -= 200.0
    logp, mass = carrier.logp(Probabilities(logits))
    p = logits.double().softmax(-1)
    expected = torch.stack([0.75 * p[:, r::3].sum(-1) for r in range(3)] + [0.25 * p.sum(-1)], dim=-1)
    assert mass is None
    torch.testing.assert_close(logp.double(), expected.log(), rtol=1e-5, atol=1e-5)


def test_a_token_that_cannot_be_carried_takes_no_part() -> None:
    carrier = Carrier(_kernel([(0, 1, 1.0), (2, 0, 1.0)], teacher=3, student=3), torch.device("cpu"))
    logp, mass = carrier.logp(Probabilities(torch.tensor([[0.5, 0.25, 0.25]]).log(), normalised=True))
    assert mass is not None and float(mass) == pytest.approx(0.75)
    assert logp.exp()[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0], abs=1e-7)
    assert carrier.reached.tolist() == [True, True, False]


@pytest.mark.parametrize("low", [0.0, -200.0])
def test_the_student_is_carried_over_where_probabilities_vanish(low: float) -> None:
    """With its gradient, as in float64; the last token of the teacher is never reached."""
    shares = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]])
    entries = [(u, v, float(shares[u, v])) for u in range(3) for v in range(4) if shares[u, v]]
    outcomes = Outcomes(_kernel(entries, teacher=3, student=4), torch.device("cpu"))
    logits = torch.tensor([[1.0, low, low - 1.0], [low, 0.3, 0.1]])
    found, expected = logits.clone().requires_grad_(), logits.double().requires_grad_()
    p = torch.tensor([0.5, 0.3, 0.2])
    carried = StudentScores(found, torch.tensor([0, 1])).carried(outcomes.links, 1.0)
    logp = carried.logp(3, 1.0)
    naive = expected.log_softmax(-1)[:, :, None] + shares.double().log()
    naive_logp = torch.stack([of_v.logsumexp(-1) for of_v in naive.unbind(-1)[:3]], dim=-1)
    torch.testing.assert_close(logp.double(), naive_logp, rtol=1e-5, atol=1e-5)
    assert outcomes.place.tolist() == [0, 1, 2, -1]
    (logp * p).sum().backward()
    (naive_logp * p.double()).sum().backward()
    assert found.grad is not None and expected.grad is not None
    torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-6)


def test_the_end_of_the_text_is_the_end_of_the_text() -> None:
    kernel = TOY.vocabularies(COUNTED).kernel(None)
    assert kernel is not None
    ((student_id, weight, _),) = kernel.describe(TEACHER.index(EOS))
    assert (STUDENT[student_id], weight) == (EOS, 1.0)


# ---------------------------------------------------------------- what is refused


def test_a_divergence_that_would_be_infinite_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"infinite(.|\n)*no token of the teacher"):
        term_of(MeasuredTransportConfig(form="measured", divergence="reverse_kl"), TOY.vocabularies(COUNTED))
    term_of(MeasuredTransportConfig(divergence="reverse_kl"), TOY.vocabularies(COUNTED))
    skewed = MeasuredTransportConfig(form="measured", divergence="skewed_reverse_kl", skew=0.1)
    term_of(skewed, TOY.vocabularies(COUNTED))


def test_without_counts_it_says_so_when_it_is_asked_for_values() -> None:
    term = term_of(MeasuredTransportConfig(), TOY.vocabularies())
    assert term.score_request is not None and term.score_request.width == W
    hidden, head = numbers_for(ROWS, seed=0, teacher=False, width=D), torch.randn(V, D)
    with pytest.raises(TeacherError, match="counts"):
        ours(term, [collate(ROWS)], hidden, head, numbers_for(ROWS, seed=1, teacher=True, width=W))


def test_without_the_teacher_s_spelling_the_student_cannot_be_carried() -> None:
    vocabularies = replace(TOY.vocabularies(COUNTED), student_paths=None)
    with pytest.raises(TeacherError, match="spelling"):
        term_of(MeasuredTransportConfig(), vocabularies)
    term_of(MeasuredTransportConfig(form="measured"), vocabularies)


def test_k_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="k is larger"):
        term_of(TopKTransportConfig(k=W + 1), TOY.vocabularies(COUNTED))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"form": "longest_prefix", "prior": 1.0}, "counts nothing"),
        ({"samples": 3, "divergence": "jensen_shannon", "teacher_weight": 0.5}, "leave out samples"),
        ({"prior": 0.0}, "greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MeasuredTransportConfig(**values)


def test_tiles_and_whole_scores_agree() -> None:
    """The gradient that a tile writes by itself is torch's."""
    vocabularies = TOY.vocabularies(COUNTED)
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(5, V, generator=generator), torch.randn(3, W, generator=generator)
    targets = torch.randint(0, V, (5,), generator=generator)
    has = torch.tensor([True, False, True, True, False])
    aligned = AlignedTokens(has, FullLogits(teacher), targets[:3] % W, torch.zeros(3), has[:3])
    for settings in (
        MeasuredTransportConfig(),
        MeasuredTransportConfig(form="measured"),
        TopKTransportConfig(k=4),
        MeasuredTransportConfig(form="longest_prefix"),
    ):
        term = term_of(settings, vocabularies)
        leaf = student.clone().requires_grad_()
        term.per_position(StudentScores(leaf, targets), aligned).sum().backward()
        tile, out = student.clone().requires_grad_(), torch.empty_like(student)
        scores = TileScores(tile, targets)
        factor = scores.write_gradient(term.per_position(scores, aligned).sum(), tile, out)
        assert leaf.grad is not None
        torch.testing.assert_close(out if factor is None else out * factor, leaf.grad, rtol=1e-5, atol=1e-6)
    assert math.isfinite(float(leaf.grad.sum()))
