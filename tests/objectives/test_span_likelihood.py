"""Span likelihood against the formula of the paper in float64, and where it is smallest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.config.terms import SpanLikelihoodConfig
from distillab.data.paired import PairedRow
from distillab.errors import ConfigError, TeacherError
from distillab.models import chunking
from distillab.objectives.span_likelihood import SpanLikelihood, bernoulli_kl
from distillab.teachers.signals import TeacherSignal
from tests.objectives.toy_pair import (
    EOS,
    ROWS,
    STUDENT,
    TEACHER,
    TOY,
    D,
    Naive,
    Tokenizer,
    Toy,
    assert_same,
    collate,
    numbers_for,
    ours,
    reference,
)

V, W = len(STUDENT), len(TEACHER)
SETTINGS = [{"temperature": t, "debias": d} for t in (1.0, 100.0) for d in (True, False)]
each_setting = pytest.mark.parametrize("values", SETTINGS, ids=lambda v: f"{v['temperature']:g}-{v['debias']}")


def _term(toy: Toy = TOY, **values: Any) -> SpanLikelihood:
    both = toy.vocabularies()
    return SpanLikelihood(
        SpanLikelihoodConfig(**values), student_starts=both.student_starts, teacher_starts=both.teacher_starts
    )


def naive_likelihood(values: dict[str, Any], toy: Toy = TOY) -> Naive:
    """f(P ‖ Q) + f(1−P ‖ 1−Q), f(a ‖ b) = a log(a / b), of the τ-th roots; ε = 10⁻⁶ as the authors take it."""
    tau = values["temperature"]

    def side(row: Any, spans: Any, logits: Tensor, tokens: list[str], span: int) -> tuple[Tensor, Tensor | None]:
        places = [i for i, c in enumerate(spans) if c == span]
        total = torch.zeros((), dtype=torch.float64)
        for i in places:
            total = total + logits[i - 1, : len(tokens)].log_softmax(-1)[int(row.input_ids[i])]
        after = places[-1] + 1
        if after >= len(row) or spans[after] != span + 1 or not row.answer_mask[after]:
            return total, None
        p = logits[places[-1], : len(tokens)].softmax(-1)
        return total, sum((p[v] for v, t in enumerate(tokens) if t[0] == " " or t == EOS), torch.zeros(())).log()

    def naive(rows: Sequence[PairedRow], s: dict[int, Tensor], t: dict[int, Tensor]) -> tuple[Tensor, int]:
        found = []
        for row in rows:
            for span in range(int(row.student_spans.max()) + 1):
                scored = [
                    bool(mask)
                    for encoded, spans in ((row.student, row.student_spans), (row.teacher, row.teacher_spans))
                    for mask, number in zip(encoded.answer_mask, spans, strict=True)
                    if number == span
                ]
                if not all(scored):
                    continue
                q, q_end = side(row.student, row.student_spans, s[row.index], toy.student.tokens, span)
                p, p_end = side(row.teacher, row.teacher_spans, t[row.index], toy.teacher.tokens, span)
                if values["debias"] and q_end is not None and p_end is not None:
                    q, p = q + q_end, p + p_end
                big_p, big_q = (torch.exp(x / tau - 1e-6) for x in (p, q))
                found.append(big_p * (big_p / big_q).log() + (1 - big_p) * ((1 - big_p) / (1 - big_q)).log())
        return torch.stack(found).sum(), len(found)

    return naive


def _case(seed: int = 0, extra: int = 2) -> tuple[dict[int, Tensor], Tensor, dict[int, Tensor]]:
    head = torch.randn(V + extra, D, generator=torch.Generator().manual_seed(seed))
    hidden = numbers_for(ROWS, seed=seed, teacher=False, width=D)
    return hidden, head, numbers_for(ROWS, seed=seed + 1, teacher=True, width=W + extra)


@each_setting
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_equals_the_formula_of_the_paper(values: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stated error of float32 logits at τ = 100: 10⁻⁵ of the value, 10⁻⁴ of the largest gradient."""
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * (V + 2))
    hidden, head, teacher = _case()
    expected = reference(naive_likelihood(values), ROWS, hidden, head, teacher)
    assert_same(ours(_term(**values), [collate(ROWS)], hidden, head, teacher), expected)


@each_setting
@pytest.mark.parametrize("split", [[[3, 1], [2, 0]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("sides", [*itertools.product(["left", "right"], repeat=2)])
def test_split_order_and_padding_change_nothing(values: dict[str, Any], split: list[list[int]], sides: Any) -> None:
    hidden, head, teacher = _case(1)
    expected = ours(_term(**values), [collate(ROWS)], hidden, head, teacher)
    batches = [collate([ROWS[i] for i in part], *sides) for part in split]
    assert_same(ours(_term(**values), batches, hidden, head, teacher), expected, tolerance=2e-6)


# one tokenizer on both sides; the teacher alone begins with a BOS, and reads a token of its own in between
SAME = Toy(Tokenizer(TEACHER), Tokenizer(TEACHER))
SAME_ROWS = [
    SAME.row(0, "a ", "abc 12 ab1"),
    SAME.row(1, "c", " a123 b2c a3", mark=6),
    SAME.row(2, "bb", "13 a", end=False),
]


def _same_logits(seed: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The teacher's of every position, and the student's: the same where both predict from the same place."""
    teacher = numbers_for(SAME_ROWS, seed=seed, teacher=True, width=W)
    student = {}
    for row in SAME_ROWS:
        # the last token before the mark predicts the mark on one side and goes on on the other
        kept = [j for j, id_ in enumerate(row.teacher.input_ids) if TEACHER[id_] not in ("<bos>", "<mark>")]
        places = [
            j + 1 if TEACHER[row.teacher.input_ids[min(j + 1, len(row.teacher) - 1)]] == "<mark>" else j for j in kept
        ]
        student[row.index] = teacher[row.index][places]
    return student, teacher


@each_setting
@pytest.mark.parametrize("seed", range(3))
def test_smallest_where_both_say_the_same(values: dict[str, Any], seed: int) -> None:
    """0 with no gradient at the teacher; larger away from it, and where it is read one place late."""
    student, teacher = _same_logits(seed)
    batch, term, head = collate(SAME_ROWS), _term(SAME, **values), torch.eye(W)
    equal = ours(term, [batch], student, head, teacher)
    assert equal.count == 8 + 11 + 4
    assert abs(equal.total) < 2e-6
    assert max(float(g.abs().max()) for g in equal.hidden.values()) < 2e-5
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        away = {row: x + torch.randn(x.shape, generator=generator) for row, x in student.items()}
        assert ours(term, [batch], away, head, teacher).total > 1e-3
    late = {row: x.roll(-1, dims=0) for row, x in teacher.items()}
    assert ours(term, [batch], student, head, late).total > 1e-3


def test_the_mass_of_a_beginning_word_counts_only_where_it_is_asked_for() -> None:
    hidden, head, teacher = _case()
    with_it, without = (
        ours(_term(temperature=1.0, debias=d), [collate(ROWS)], hidden, head, teacher).total for d in (True, False)
    )
    assert abs(with_it - without) > 1e-2


@settings(max_examples=60, deadline=None)
@given(p=st.floats(-300.0, 0.0), q=st.floats(-300.0, 0.0), tau=st.sampled_from([1.0, 100.0]))
def test_two_coins_in_float32(p: float, q: float, tau: float) -> None:
    """Against float64 by plain exponentials: within 10⁻⁵ relative, and 2·10⁻⁷ absolute near equality; never NaN."""
    pair = [torch.tensor([x / tau], dtype=torch.float32) for x in (p, q)]
    student = pair[1].requires_grad_()
    found = bernoulli_kl(teacher_logp=pair[0], student_logp=student)
    found.sum().backward()
    a, b = (math.exp(float(x.detach().double()) - 1e-6) for x in pair)
    heads = a * (float(pair[0]) - float(student.detach()))
    expected = heads + (1 - a) * (math.log1p(-a) - math.log1p(-b))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5, abs=2e-7)
    assert student.grad is not None and bool(student.grad.isfinite().all())


@pytest.mark.parametrize("tau", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("p", [-1e-4, -0.01, -0.3, -1.0, -5.0, -40.0])
@pytest.mark.parametrize("gap", [0.0, 1e-4, -1e-3, 0.01, -0.01, 0.1, 1.0, -3.0])
def test_two_coins_that_are_nearly_equal(p: float, gap: float, tau: float) -> None:
    """Value and slope against 60 decimal digits, given what float32 holds of both: within 10⁻⁵ relative, never < 0."""
    pair = [torch.tensor([x / tau]) for x in (p, min(0.0, p + gap))]
    student = pair[1].requires_grad_()
    found = bernoulli_kl(teacher_logp=pair[0], student_logp=student)
    (slope,) = torch.autograd.grad(found.sum(), student)
    with localcontext() as context:
        context.prec = 60
        a, b = ((Decimal(float(x.detach())) - Decimal("1e-6")).exp() for x in pair)
        expected = a * (a / b).ln() + (1 - a) * ((1 - a) / (1 - b)).ln()
        expected_slope = (b - a) / (1 - b)
    assert found.item() >= 0
    assert found.item() == pytest.approx(float(expected), rel=1e-5, abs=1e-30)
    if student.item() < 0:  # at its border the clamp has no slope
        assert slope.item() == pytest.approx(float(expected_slope), rel=1e-5, abs=1e-30)


def test_a_vocabulary_in_which_no_word_begins_is_refused() -> None:
    none, some = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    for sides in ((none, some), (some, none)):
        with pytest.raises(ConfigError, match="begins a word"):
            SpanLikelihood(SpanLikelihoodConfig(), student_starts=sides[0], teacher_starts=sides[1])
    SpanLikelihood(SpanLikelihoodConfig(debias=False), student_starts=none, teacher_starts=some)


def test_needs_a_teacher() -> None:
    with pytest.raises(TeacherError, match="needs the teacher"):
        _term().reduce_spans(torch.zeros(30, 2), collate(ROWS), TeacherSignal())
    with pytest.raises(TypeError, match="no value at a single position"):
        _term().per_position(None, None)  # type: ignore[arg-type]
