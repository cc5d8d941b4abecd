"""The term merged_spans against loops in float64 over the texts, and what it must not depend on."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from distillab.config.terms import CrossEntropyConfig, MergedSpansConfig, TermConfig, TokenDivergenceConfig
from distillab.errors import ConfigError, TeacherError
from distillab.models import chunking
from distillab.models.aligned_positions import align_batch, teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_targets
from distillab.objectives.build import build_objective
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.merged_spans import MergedSpans
from distillab.objectives.step import Measured, measure
from distillab.objectives.term import StudentScores
from distillab.teachers.aligned import align
from distillab.teachers.signals import FullLogits, TeacherSignal
from tests.objectives.naive_merged import DIVERGENCES, OTHERS_S, OTHERS_T, naive
from tests.objectives.samples import states_of
from tests.objectives.span_samples import (
    SAMPLES,
    STUDENT_TOKENS,
    TEACHER_TOKENS,
    paired_batch,
    toy_vocabularies,
)
from tests.training.conftest import teacher, tiny_llama

V, W = len(STUDENT_TOKENS), len(TEACHER_TOKENS)
ALL = list(range(len(SAMPLES)))

each_divergence = pytest.mark.parametrize("name", DIVERGENCES)


def merged_term(*, same: bool = False, **given: Any) -> MergedSpans:
    return MergedSpans(MergedSpansConfig(**given), vocabularies=toy_vocabularies(same=same))


def logits_of(batch: TokenBatch, width: int, *, seed: int) -> Tensor:
    """Logits at the scored positions that depend on sample and place alone."""
    return at_scored(states_of(batch, [1], width, seed=seed).hidden[1], batch) * 1.5


@dataclass
class Found:
    values_N: Tensor
    gradient_NV: Tensor


def run(term: MergedSpans, batch: TokenBatch, ours: Tensor, theirs: Tensor, *, factor: float = 1.0) -> Found:
    """The term by the head pass, with a head that gives the hidden states back as logits."""
    hidden = ours.clone().requires_grad_()
    signal = TeacherSignal(scores=FullLogits(theirs))
    work = ChunkedLoss(
        head=OutputHead(torch.eye(V), None, 1.0, None),
        targets_N=scored_targets(batch),
        teacher=align(
            FullLogits(theirs),
            batch,
            width=term.teacher_width,
            ordinal=False,
            continues=False,
            device=torch.device("cpu"),
        ),
        terms={"merged_spans": term},
        factors={"merged_spans": factor},
        reduce_spans={"merged_spans": lambda observed: term.reduce_spans(observed, batch, signal)},
    )
    loss = work.loss(hidden)
    loss.backward()
    assert hidden.grad is not None
    values = work.values["merged_spans"]
    assert loss.item() == pytest.approx(factor * values.sum().item(), rel=1e-5)
    return Found(values, hidden.grad)


# ---------------------------------------------------------------- value, gradient, count


@each_divergence
@pytest.mark.parametrize(
    "extra", [{}, {"temperature": 2.0}, {"temperature": 1.5, "rescale_by_temperature_squared": True}]
)
@pytest.mark.parametrize("weight", [None, 0.0, 0.7])
def test_value_and_gradient_are_those_of_a_naive_loop(
    name: str, extra: dict[str, Any], weight: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through chunks of 2 rows and pieces of 1, which cut spans in the middle."""
    monkeypatch.setattr(chunking, "LEAST_ROWS", 2)
    monkeypatch.setattr(chunking, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(chunking, "SUB_CHUNK_BYTES", {"cpu": 1})
    term = merged_term(divergence=name, **DIVERGENCES[name][0], **extra, unmatched_weight=weight)
    unmatched = len(OTHERS_T) / W if weight is None else weight
    for number in ALL:
        batch = paired_batch([number])
        ours, theirs = logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2)
        double = ours.double().requires_grad_()
        expected = naive(
            number,
            double,
            theirs.double(),
            name=name,
            temperature=extra.get("temperature", 1.0),
            squared=extra.get("rescale_by_temperature_squared", False),
            unmatched=unmatched,
        )
        found = run(term, batch, ours, theirs, factor=0.3)
        assert term.count(batch) == len(expected)
        values = torch.zeros(ours.shape[0], dtype=torch.float64)
        for place, value in expected:
            values[place] += value.detach()
        torch.testing.assert_close(found.values_N.double(), values, rtol=1e-4, atol=2e-6)
        if expected:
            (0.3 * torch.stack([value for _, value in expected]).sum()).backward()
            torch.testing.assert_close(found.gradient_NV.double(), double.grad, rtol=1e-3, atol=2e-6)


def test_the_gradient_reaches_the_earlier_tokens_of_a_span() -> None:
    """`c` `d` of the student against the teacher's `cd`."""
    term, batch = merged_term(), paired_batch([0])
    found = run(term, batch, logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2))
    assert found.values_N[0] != 0 and found.values_N[1] == 0
    assert bool((found.gradient_NV[:2].abs().max(dim=1).values > 1e-3).all())


def test_matched_tokens_do_not_push_down_those_that_the_student_alone_has() -> None:
    """As divergences of rows that do not sum to one do, at every position (X-Token, arXiv:2605.21699)."""
    term, batch = merged_term(unmatched_weight=0.0), paired_batch([0])
    ours, theirs = logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2)
    found = run(term, batch, ours, theirs)
    one_token = [2, 6]  # e, $
    others = [STUDENT_TOKENS.index(token) for token in OTHERS_S]
    assert bool((found.values_N[one_token] > 0.1).all()) and len(others) == 4
    torch.testing.assert_close(found.gradient_NV[one_token][:, others], torch.zeros(2, 4), rtol=0, atol=1e-7)


@pytest.mark.parametrize("sure", [0.1, 0.9])
def test_a_later_piece_of_the_teacher_s_is_not_taught_as_the_student_s_next_token(sure: float) -> None:
    """`cd` of the student against `c` `d`: matched by the last token's id, the student would be drawn to `d`."""
    term, batch = merged_term(), paired_batch([5])
    ours, theirs = torch.zeros(4, V), torch.zeros(6, W)
    # each piece so likely that the teacher finds the text `cd` exactly so likely
    for place, token in ((0, "c"), (1, "d")):
        theirs[place, TEACHER_TOKENS.index(token)] = math.log(sure**0.5 * (W - 1) / (1 - sure**0.5))
    slope = run(term, batch, ours, theirs).gradient_NV[0]
    right, piece = slope[STUDENT_TOKENS.index("cd")], slope[STUDENT_TOKENS.index("d")]
    assert right < 0 < piece
    assert right.item() == pytest.approx((1 - term.unmatched_weight) * (1 / V - sure), rel=1e-4)
    others = torch.cat([slope[: STUDENT_TOKENS.index("cd")], slope[STUDENT_TOKENS.index("cd") + 1 :]])
    torch.testing.assert_close(others, piece.expand_as(others))


def test_a_span_that_one_side_does_not_score_in_full_is_left_out() -> None:
    term, batch = merged_term(), paired_batch([0])
    batch["teacher"]["answer_mask"][0, 3] = False  # the teacher's first cd
    batch["alignment"] = align_batch(batch, batch["teacher"])
    found = run(term, batch, logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2))
    assert term.count(batch) == 4
    assert not found.values_N[:2].any() and not found.gradient_NV[:2].any()


# ---------------------------------------------------------------- one tokenisation


def _measured(terms: tuple[TermConfig, ...], batch: TokenBatch, *, factor: float = 1.0) -> tuple[Measured, Tensor]:
    """Value and gradient of real models, through everything that a run does."""
    student, said = tiny_llama(1), teacher()
    vocabularies = toy_vocabularies(same=True)
    objective = build_objective(terms, shared_width=V, vocabularies=vocabularies)
    signal = said.signal(teacher_batch(batch), objective.request)
    found = measure(
        student,
        batch,
        objective,
        signal,
        factors=dict.fromkeys(objective.names, factor),
        device=torch.device("cpu"),
    )
    torch.stack(list(found.losses.values())).sum().backward()
    gradient = [parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None]
    return found, torch.cat(gradient)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"temperature": 2.0, "rescale_by_temperature_squared": True},
        {"divergence": "reverse_kl"},
        {"divergence": "jensen_shannon", "teacher_weight": 0.2},
        {"divergence": "skewed_forward_kl", "skew": 0.1},
        {"divergence": "skewed_reverse_kl", "skew": 0.1},
        {"divergence": "adaptive_kl", "head_mass": 0.5},
        {"divergence": "total_variation"},
        {"divergence": "alpha_beta", "alpha": 0.2, "beta": 0.7},
    ],
    ids=lambda extra: extra.get("divergence", f"forward_kl {extra}"),
)
def test_with_one_tokenisation_it_is_token_divergence(extra: dict[str, Any]) -> None:
    batch = paired_batch([0, 1, 2, 3, 5], same=True, teacher="left")
    plain = TokenBatch(**{name: value for name, value in batch.items() if isinstance(value, torch.Tensor)})  # type: ignore[typeddict-item]
    merged, merged_gradient = _measured((MergedSpansConfig(**extra),), batch, factor=0.5)
    by_token, gradient = _measured((TokenDivergenceConfig(**extra),), plain, factor=0.5)
    term = merged_term(same=True, **extra)
    assert term.count(batch) == int(batch["answer_mask"].sum()) and term.unmatched_weight == 0.0
    torch.testing.assert_close(merged.values["merged_spans"], by_token.values["token_divergence"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_of_a_run_adds_up_beside_another_term(name: str) -> None:
    batch = paired_batch([0, 1, 2, 3, 5], same=True)
    settings = MergedSpansConfig(divergence=name, **DIVERGENCES[name][0])  # type: ignore[arg-type]
    alone, gradient = _measured((settings,), batch)
    cross, cross_gradient = _measured((CrossEntropyConfig(),), batch)
    both, both_gradient = _measured((CrossEntropyConfig(), settings), batch)
    torch.testing.assert_close(both.sums["merged_spans"], alone.sums["merged_spans"])
    torch.testing.assert_close(both.sums["cross_entropy"], cross.sums["cross_entropy"])
    torch.testing.assert_close(both_gradient, gradient + cross_gradient, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- properties


def test_no_arrangement_of_the_samples_changes_sum_or_count() -> None:
    term = merged_term()

    def measured(*batches: TokenBatch) -> tuple[float, int]:
        sums = [
            run(term, one, logits_of(one, V, seed=1), logits_of(one["teacher"], W, seed=2)).values_N.sum().item()
            for one in batches
        ]
        return sum(sums), sum(term.count(one) for one in batches)

    whole = measured(paired_batch(ALL))
    assert whole[1] == 18
    others = {
        "left": measured(paired_batch(ALL, student="left", teacher="left")),
        "one left": measured(paired_batch(ALL, teacher="left")),
        "order": measured(paired_batch(ALL[::-1], student="left")),
        "split": measured(paired_batch([3]), paired_batch([0, 4], student="left"), paired_batch([5, 1, 2, 6, 7])),
    }
    for name, (total, count) in others.items():
        assert (total, count) == (pytest.approx(whole[0], rel=1e-5), whole[1]), name


@given(st.integers(0, 2**31), st.sampled_from(sorted(DIVERGENCES)), st.floats(0.3, 5.0))
@settings(max_examples=25, deadline=None)
def test_it_is_never_negative_and_falls_when_the_student_follows_its_gradient(
    seed: int, name: str, temperature: float
) -> None:
    term = merged_term(divergence=name, **DIVERGENCES[name][0], temperature=temperature)
    batch = paired_batch(ALL)
    ours, theirs = logits_of(batch, V, seed=seed), logits_of(batch["teacher"], W, seed=seed + 5)
    found = run(term, batch, ours, theirs)
    assert bool((found.values_N >= -1e-6).all())
    after = run(term, batch, ours - 0.02 * found.gradient_NV, theirs)
    assert after.values_N.double().sum() < found.values_N.double().sum()


def test_a_student_that_finds_every_text_as_likely_as_the_teacher_has_the_value_0() -> None:
    """Longer spans: the same likelihood of the span, over paths of other lengths."""
    term, batch = merged_term(divergence="reverse_kl"), paired_batch([2, 5])  # efg (1:3) / cd (1:2), d, cd (1:2), f
    ours, theirs = logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2)
    p = theirs.double().log_softmax(dim=-1)
    answers = {token: TEACHER_TOKENS.index(token) for token in "cdefg"}
    spans = {0: [(0, "e"), (1, "f"), (2, "g")], 1: [(3, "c"), (4, "d")], 3: [(6, "c"), (7, "d")]}
    for place, tokens in spans.items():
        logp = sum(p[at, answers[token]].item() for at, token in tokens)
        target = scored_targets(batch)[place]
        others = torch.cat([ours[place, :target], ours[place, target + 1 :]]).double().logsumexp(dim=0).item()
        ours[place, target] = others + logp - math.log1p(-math.exp(logp))
    found = run(term, batch, ours, theirs)
    at = list(spans)
    torch.testing.assert_close(found.values_N[at], torch.zeros(3), rtol=0, atol=1e-6)
    assert found.gradient_NV[at].abs().max() < 1e-4 and found.values_N.sum() > 0.1


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation"])
@pytest.mark.parametrize("size", [60.0, 1e4])
def test_certainty_of_either_side_gives_no_infinity_and_no_missing_number(name: str, size: float) -> None:
    term, batch = merged_term(divergence=name, **DIVERGENCES[name][0]), paired_batch(ALL)
    ours, theirs = logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2)
    sure = torch.nn.functional.one_hot(scored_targets(batch), V) * size
    sure_teacher = torch.nn.functional.one_hot(scored_targets(batch["teacher"]), W) * size
    for student, said in ((sure, theirs), (ours, sure_teacher), (sure, sure_teacher), (-sure, sure_teacher)):
        found = run(term, batch, student.float(), said.float())
        assert found.values_N.isfinite().all() and found.gradient_NV.isfinite().all()


def test_a_batch_without_a_span_gives_zero() -> None:
    term, batch = merged_term(), paired_batch([4, 5])
    batch["teacher"]["answer_mask"][:] = False
    batch["alignment"] = align_batch(batch, batch["teacher"])
    found = run(term, batch, logits_of(batch, V, seed=1), torch.zeros(0, W))
    assert term.count(batch) == 0 and not found.values_N.any() and not found.gradient_NV.any()
    empty = paired_batch([4])
    assert run(term, empty, torch.zeros(0, V), torch.zeros(0, W)).values_N.shape == (0,)


# ---------------------------------------------------------------- refusals


def test_settings_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of them has none"):
        merged_term(same=True, unmatched_weight=0.5)
    for weight in (-0.1, 1.0):
        with pytest.raises(ValidationError, match="unmatched_weight"):
            MergedSpansConfig(unmatched_weight=weight)
    assert merged_term().unmatched_weight == len(OTHERS_T) / W


def test_a_teacher_that_was_not_asked_or_not_aligned_is_refused() -> None:
    term, batch = merged_term(), paired_batch([0])
    ours, theirs = logits_of(batch, V, seed=1), logits_of(batch["teacher"], W, seed=2)
    student = StudentScores(ours, scored_targets(batch))
    with pytest.raises(TeacherError, match="reads two tokenisations, and the batch has one"):
        term.position_values(student, FullLogits(copy.copy(theirs)))
    with pytest.raises(TeacherError, match="there is none"):
        term.reduce_spans(term.score(student), batch, TeacherSignal())
