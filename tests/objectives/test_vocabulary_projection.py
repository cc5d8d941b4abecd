"""Vocabulary projection against a naive computation by strings, and what the groups promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.config.terms import TokenDivergenceConfig, VocabularyProjectionConfig
from distillab.data.paired import PairedRow
from distillab.errors import TeacherError
from distillab.models import chunking
from distillab.objectives.term import StudentScores
from distillab.objectives.token_divergence import TokenDivergence
from distillab.objectives.vocabulary_projection import VocabularyProjection
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import FullLogits
from tests.objectives.naive_projection import naive_projection
from tests.objectives.toy_pair import (
    EOS,
    ROWS,
    STUDENT,
    TEACHER,
    TOY,
    D,
    Result,
    Tokenizer,
    Toy,
    assert_same,
    collate,
    numbers_for,
    ours,
    reference,
)

V, W = len(STUDENT), len(TEACHER)
DIVERGENCES: list[dict[str, Any]] = [
    {"divergence": "forward_kl"},
    {"divergence": "reverse_kl", "temperature": 2.0, "rescale_by_temperature_squared": True},
    {"divergence": "jensen_shannon", "teacher_weight": 0.3, "temperature": 0.7},
    {"divergence": "total_variation"},
]
FORMS = ["projected", "common"]


def _term(toy: Toy = TOY, **values: Any) -> VocabularyProjection:
    """By default the divergence alone."""
    return VocabularyProjection(
        VocabularyProjectionConfig(**{"rest": "none", **values}), vocabularies=toy.vocabularies()
    )


# ---------------------------------------------------------------- value and gradient


def _case(seed: int = 0, extra: int = 0) -> tuple[dict[int, Tensor], Tensor, dict[int, Tensor]]:
    """Hidden states, a head, teacher logits; `extra` unused rows of either vocabulary."""
    hidden = numbers_for(ROWS, seed=seed, teacher=False, width=D)
    head = torch.randn(V + extra, D, generator=torch.Generator().manual_seed(seed))
    return hidden, head, numbers_for(ROWS, seed=seed + 1, teacher=True, width=W + extra)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rest", ["text", "none"])
@pytest.mark.parametrize("values", DIVERGENCES, ids=lambda v: v["divergence"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_equals_a_naive_computation_by_strings(
    form: str, rest: str, values: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * (V + 3))
    hidden, head, teacher = _case(extra=3)
    values = {"form": form, "rest": rest, **values}
    expected = reference(naive_projection(values), ROWS, hidden, head, teacher)
    found = ours(_term(**values), [collate(ROWS)], hidden, head, teacher)
    assert_same(found, expected)


@pytest.mark.parametrize("values", DIVERGENCES, ids=lambda v: v["divergence"])
def test_the_strict_form_learns_from_the_text_where_not_one_and_the_same_token_follows(values: dict[str, Any]) -> None:
    hidden, head, teacher = _case()
    values = {"form": "strict", "rest": "text", **values}
    expected = reference(naive_projection(values), ROWS, hidden, head, teacher)
    assert_same(ours(_term(**values), [collate(ROWS)], hidden, head, teacher), expected)
    with pytest.raises(ValueError, match="set rest: text"):
        VocabularyProjectionConfig(form="strict", rest="none")


@pytest.mark.parametrize("rest", ["text", "none"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", [[[0, 1, 2, 3]], [[3, 1], [2, 0]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("sides", [*itertools.product(["left", "right"], repeat=2)])
def test_split_order_and_padding_change_nothing(form: str, split: list[list[int]], sides: Any, rest: str) -> None:
    hidden, head, teacher = _case(1)
    term = _term(form=form, rest=rest)
    expected = ours(term, [collate(ROWS)], hidden, head, teacher)
    batches = [collate([ROWS[i] for i in part], *sides) for part in split]
    assert_same(ours(term, batches, hidden, head, teacher), expected, tolerance=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_teacher_read_one_position_late_is_further_away(form: str) -> None:
    """With a student that says in its groups what the teacher says: the true place is the best one."""
    toy = Toy(Tokenizer(TEACHER), Tokenizer(TEACHER))
    rows = [toy.row(0, "a ", "abc 12 ab1"), toy.row(1, "c", " a123 b2c a3")]
    logits = numbers_for(rows, seed=3, teacher=True, width=W)
    student = {row: x[1:] for row, x in logits.items()}  # the teacher alone begins with a BOS
    late = {row: torch.cat([x[1:], x[:1]]) for row, x in logits.items()}
    right = ours(_term(toy, form=form), [collate(rows)], student, torch.eye(W), logits)
    wrong = ours(_term(toy, form=form), [collate(rows)], student, torch.eye(W), late)
    assert abs(right.total) < 1e-5 and wrong.total > 1.0


# ---------------------------------------------------------------- one tokenizer on both sides


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "values", [*DIVERGENCES, {"divergence": "adaptive_kl", "head_mass": 0.5}], ids=lambda v: v["divergence"]
)
@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("rest", ["text", "none"])
def test_with_one_tokenizer_it_is_token_divergence(form: str, values: dict[str, Any], scale: float, rest: str) -> None:
    """Also where logits are so far apart that probabilities are too small for float32."""
    toy = Toy(Tokenizer(TEACHER), Tokenizer(TEACHER))
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(9, W, generator=generator) for _ in range(2))
    targets = torch.randint(0, W, (9,), generator=generator)
    found = []
    for term in (
        TokenDivergence(TokenDivergenceConfig(**values), shared_width=W),
        _term(toy, form=form, rest=rest, **values),
    ):
        leaf = student.clone().requires_grad_()
        has = torch.ones(9, dtype=torch.bool)
        aligned = AlignedTokens(has, FullLogits(teacher), targets, torch.zeros(9), has)
        said = FullLogits(teacher) if isinstance(term, TokenDivergence) else aligned
        value = term.per_position(StudentScores(leaf, targets), said)
        value.sum().backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- what the teacher does not say


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_teacher_that_is_sure_of_the_text_gives_cross_entropy(seed: int) -> None:
    """In value and gradient, whatever the tokens: the chain rule puts both halves together again."""
    hidden, head, teacher = _case(seed)
    sure = {row.index: teacher[row.index].clone() for row in ROWS}
    for row in ROWS:
        ids = torch.as_tensor(row.teacher.input_ids[1:], dtype=torch.int64)
        sure[row.index][torch.arange(len(ids)), ids] = 90.0
    found = ours(_term(rest="text"), [collate(ROWS)], hidden, head, sure)
    assert_same(found, reference(_cross_entropy, ROWS, hidden, head, sure), tolerance=2e-5)


def _cross_entropy(rows: Any, student: dict[int, Tensor], teacher: dict[int, Tensor]) -> tuple[Tensor, int]:
    found = [
        -student[row.index][place - 1, :V].log_softmax(-1)[int(row.student.input_ids[place])]
        for row in rows
        for place in range(1, len(row.student))
        if row.student.answer_mask[place]
    ]
    return torch.stack(found).sum(), len(found)


# ---------------------------------------------------------------- a text distribution that both sides know

WORDS = {"12": 0.3, "123": 0.1, "13": 0.15, "1": 0.05, "2": 0.1, "ab": 0.2, "a": 0.1}
CHARACTERS = Toy(Tokenizer(["<pad>", EOS, *" 123ab", "12", "13", "123", "ab"]), Tokenizer(["<bos>", EOS, *"ba321 "]))


def _next(side: Tokenizer, read: str, *, starts: bool) -> Tensor:
    """Exact next-token probabilities after `read`, of texts: two words with a space between, then the end."""
    texts = {f"{a} {b}": p * q for (a, p), (b, q) in itertools.product(WORDS.items(), repeat=2)}
    found = torch.zeros(len(side.tokens), dtype=torch.float64)
    for text, probability in texts.items():
        done = ""
        for token in [*side.cut(text), side.tokens.index(EOS)]:
            if done == read:
                found[token] += probability
                break
            done += side.tokens[token]
    return found / found.sum() if starts else found


def _true_logits(
    toy: Toy, text: str, *, end: bool = True
) -> tuple[list[PairedRow], dict[int, Tensor], dict[int, Tensor]]:
    # a row's first token is not scored: a prompt of one space stands before the text on both sides
    rows = [toy.row(0, " ", text, end=end)]
    logits = []
    for side, row in ((toy.student, rows[0].student), (toy.teacher, rows[0].teacher)):
        lines = []
        read = ""
        for place, id_ in enumerate(row.input_ids):
            read += "" if side.tokens[id_][0] == "<" else side.tokens[id_]
            if place < row.prompt_length - 1 or place == len(row) - 1:
                lines.append(torch.zeros(len(side.tokens)))
            else:
                lines.append(_next(side, read[1:], starts=True).clamp(min=1e-30).log().float())
        logits.append(torch.stack(lines))
    return rows, {0: logits[0]}, {0: logits[1]}


@pytest.mark.parametrize("values", [DIVERGENCES[0], DIVERGENCES[1], DIVERGENCES[2]], ids=lambda v: v["divergence"])
@pytest.mark.parametrize("text", ["12", "123 13", "13 1", "13 2", "ab 12", "2 123", "ab a"])
def test_a_student_that_says_the_same_in_longer_tokens_has_no_divergence(text: str, values: dict[str, Any]) -> None:
    """Every token but a last `12`, `1`, `a`, which tells the student more than the teacher: that no 3 follows."""
    values = {key: value for key, value in values.items() if "temperature" not in key}
    rows, student, teacher = _true_logits(CHARACTERS, text, end=text[-1] in "3b" or text == "13 2")
    found = ours(_term(CHARACTERS, **values), [collate(rows)], student, torch.eye(12), teacher)
    assert abs(found.total) < 1e-5
    assert float(found.hidden[0].abs().max()) < 1e-5


def test_the_token_that_follows_gets_its_true_probability_by_the_chain_rule() -> None:
    """KL to a student that differs from the truth in how it shares the mass of `1…`, computed by hand."""
    rows, student, teacher = _true_logits(CHARACTERS, "13 ab")
    ids = CHARACTERS.student.tokens.index
    place = rows[0].student.prompt_length - 1
    true = student[0][place].exp()
    wrong = true.clone()
    wrong[ids("13")], wrong[ids("1")] = 0.5 * true[ids("13")], true[ids("1")] + 0.5 * true[ids("13")]
    student[0][place] = wrong.log()
    group = float(true[[ids("1"), ids("12"), ids("123")]].sum())
    half = 0.5 * float(true[ids("13")])
    expected = 2 * half * math.log(2) + group * math.log(group / (group + half))
    found = ours(_term(CHARACTERS), [collate(rows)], student, torch.eye(12), teacher)
    assert found.total == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------- tokens that the teacher lacks


def _gold_common_kl(p: Tensor, q: Tensor, common: list[tuple[int, int]]) -> Tensor:
    """The published common-set KL: over matched tokens alone, neither side made to sum to one."""
    return sum((p[w] * (p[w].log() - q[v].log()) for w, v in common), torch.zeros(()))


def _mean_gradient(loss: Callable[[Tensor, int], Tensor], logits: Tensor, true: Tensor) -> Tensor:
    """Of the logits, over the student's tokens that really follow."""
    leaf = logits.clone().requires_grad_()
    total = torch.zeros(())
    for token, probability in enumerate(true.tolist()):
        if probability > 1e-9:
            total = total + probability * loss(leaf, token)
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_two_digits_are_not_pushed_down_where_the_teacher_has_single_digits(form: str) -> None:
    """X-Token's proposition: a KL over common tokens alone pushes every other token down, at every position.

    The student gives `12`, `13`, `123`, `ab` a tenth of their true probability. The published form lowers them all
    the same. The projected form raises the one that follows, and all of them on average; the common one leaves them.
    """
    toy = CHARACTERS
    true = _next(toy.student, "", starts=True)
    p = _next(toy.teacher, "", starts=True).clamp(min=1e-12)
    ids = toy.student.tokens.index
    missing = [ids(token) for token in ("12", "13", "123", "ab")]
    start = true.clamp(min=1e-3)
    start[missing] = 0.1 * true[missing]
    logits = start.log()
    common = [(toy.teacher.tokens.index(t), ids(t)) for t in (EOS, *" 123ab")]

    published = _mean_gradient(lambda leaf, token: _gold_common_kl(p, leaf.softmax(-1), common), logits, true)
    assert bool((published[missing] > 0).all())

    term = _term(toy, form=form)

    def value(leaf: Tensor, token: int) -> Tensor:
        text = toy.student.tokens[token]
        path = toy.teacher.cut(text)
        further, read = 0.0, toy.teacher.tokens[path[0]]
        for id_ in path[1:]:
            further += float(_next(toy.teacher, read, starts=True)[id_].log())
            read += toy.teacher.tokens[id_]
        one = torch.ones(1, dtype=torch.bool)
        said = AlignedTokens(
            one, FullLogits(p.log()[None].float()), torch.tensor([path[0]]), torch.tensor([further]), one
        )
        return term.per_position(StudentScores(leaf[None].float(), torch.tensor([token])), said)[0]

    for token in missing:
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf, token), leaf)
        if form == "common":
            assert bool((gradient[missing].abs() < 1e-7).all()), toy.student.tokens[token]
        else:
            assert float(gradient[token]) < 0, toy.student.tokens[token]
    if form == "projected":
        assert bool((_mean_gradient(value, logits, true)[missing] < 0).all())


def test_a_student_of_shorter_tokens_alone_is_compared_on_what_it_has() -> None:
    toy = Toy(CHARACTERS.teacher, CHARACTERS.student)
    rows = [toy.row(0, " ", "12 ab"), toy.row(1, " ", "123 1")]
    hidden = numbers_for(rows, seed=0, teacher=False, width=D)
    teacher = numbers_for(rows, seed=1, teacher=True, width=12)
    head = torch.randn(8, D, generator=torch.Generator().manual_seed(0))
    for values in ({"form": "common", "rest": "none", **DIVERGENCES[0]}, {"form": "projected", **DIVERGENCES[1]}):
        values = {"rest": "text", **values}
        expected = reference(naive_projection(values, toy), rows, hidden, head, teacher)
        assert math.isfinite(expected.total)
        assert_same(ours(_term(toy, **values), [collate(rows)], hidden, head, teacher), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("values", DIVERGENCES, ids=lambda v: v["divergence"])
def test_a_teacher_that_is_sure_of_the_rest_of_a_word_gives_it_to_the_students_token(
    form: str, values: dict[str, Any]
) -> None:
    """log p(2 | 1) is exactly 0 in float32: not to be taken for "there is nothing further"."""
    toy = CHARACTERS
    one = torch.ones(1, dtype=torch.bool)
    teacher = torch.zeros(1, 8)
    teacher[0, toy.teacher.tokens.index("1")] = 60.0
    said = AlignedTokens(one, FullLogits(teacher), torch.tensor([toy.teacher.tokens.index("1")]), torch.zeros(1), one)
    target = toy.student.tokens.index("12")
    leaf = torch.zeros(1, 12, requires_grad=True)
    term = _term(toy, form=form, **values)
    before = said.teacher.logp(8, term.settings.temperature).clone()
    value = term.per_position(StudentScores(leaf, torch.tensor([target])), said)
    value.sum().backward()
    # other terms read the same numbers
    assert torch.equal(said.teacher.logp(8, term.settings.temperature), before)
    assert bool(value.isfinite().all()) and leaf.grad is not None
    if form == "projected":
        assert float(leaf.grad[0, target]) < min(0.0, float(leaf.grad[0, toy.student.tokens.index("1")])) - 1e-3
    else:  # nearly all of the teacher's mass is on a text that is no token of both
        assert float(leaf.grad.abs().max()) < 1e-2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 8.0), form=st.sampled_from(FORMS))
def test_never_negative(seed: int, scale: float, form: str) -> None:
    hidden, head, teacher = _case(seed)
    found: Result = ours(_term(form=form), [collate(ROWS[:2])], hidden, scale * head, teacher)
    assert found.total >= -1e-5


def test_an_objective_without_a_paired_batch_is_refused() -> None:
    scores = StudentScores(torch.zeros(1, V), torch.zeros(1, dtype=torch.int64))
    for said in (None, FullLogits(torch.zeros(1, W))):
        with pytest.raises(TeacherError, match="reads two tokenisations, and the batch has one"):
            _term().per_position(scores, said)
