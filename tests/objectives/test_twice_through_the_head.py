"""Terms over several positions apply the heads no more often than they must: counted in multiplications.

Shape letters: N, M scored positions of student and teacher, V, W ids that the heads have, D, E their widths.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distillab.config.terms import (
    CrossEntropyConfig,
    MergedSpansConfig,
    SpanLikelihoodConfig,
    TermConfig,
    VocabularyProjectionConfig,
)
from distillab.models import chunking
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import scored_count, scored_targets
from distillab.objectives import build_objective
from distillab.objectives.chunked_loss import ChunkedLoss
from distillab.objectives.term import SpanTerm
from distillab.teachers.aligned import align
from distillab.teachers.signals import HeadInputs, TeacherSignal
from tests.objectives.toy_pair import ROWS, STUDENT, TEACHER, TOY, collate

D, E = 6, 10
V, W = len(STUDENT) + 2, len(TEACHER) + 1
BATCH = collate(ROWS)
N, M = scored_count(BATCH), scored_count(BATCH["teacher"])


def _tokens_of_spans(*, longer: bool) -> int:
    """The student's scored tokens in shared spans: those of spans that are not the same one token on both sides."""
    found = 0
    for row in ROWS:
        for span in range(int(row.student_spans.max()) + 1):
            ours, theirs = (
                [(i, mask) for i, mask, c in zip(side.input_ids, side.answer_mask, spans, strict=True) if c == span]
                for side, spans in ((row.student, row.student_spans), (row.teacher, row.teacher_spans))
            )
            if all(mask for _, mask in (*ours, *theirs)):
                texts = ([STUDENT[i] for i, _ in ours], [TEACHER[i].strip("<>") for i, _ in theirs])
                same = len(ours) == len(theirs) == 1 and texts[0][0].strip("<>") == texts[1][0]
                found += (not same) * len(ours) if longer else 1  # a span has one position with a partner
    return found


def _passed(
    settings: list[TermConfig],
    *,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
    all_observed: bool = False,
    batch: TokenBatch = BATCH,
) -> tuple[int, list[Tensor]]:
    """Multiplications by heads (not those of the gradient of the student's head); values and gradients."""
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(n, D, generator=generator).requires_grad_() for n in (scored_count(batch), V))
    scores = HeadInputs(
        torch.randn(scored_count(batch["teacher"]), E, generator=generator),
        OutputHead(torch.randn(W, E, generator=generator)),
    )
    objective = build_objective(settings, shared_width=0, vocabularies=TOY.vocabularies())
    terms = objective.token_terms
    several = {name: term for name, term in terms.items() if isinstance(term, SpanTerm)}
    reduce_spans = {name: _settle(term, batch, scores) for name, term in several.items()}
    at = {name: term.scored_at(batch) for name, term in several.items()}
    work = ChunkedLoss(
        head=OutputHead(weight_VD),
        targets_N=scored_targets(batch),
        teacher=align(
            scores,
            batch,
            width=len(TEACHER),
            ordinal=False,
            continues=any(term.continues for term in terms.values()),
            device=torch.device("cpu"),
        ),
        terms=terms,
        factors=dict.fromkeys(terms, 0.5),
        reduce_spans=reduce_spans,
        scored_at={} if all_observed else {name: where for name, where in at.items() if where is not None},
    )
    with FlopCounterMode(display=False) as counter:
        loss = work.loss(hidden_ND)
    loss.backward()
    assert hidden_ND.grad is not None and weight_VD.grad is not None
    return int(counter.get_total_flops()), [*work.values.values(), hidden_ND.grad, weight_VD.grad]


def _settle(term: SpanTerm, batch: TokenBatch, scores: HeadInputs):  # type: ignore[no-untyped-def]
    return lambda observed: term.reduce_spans(observed, batch, TeacherSignal(scores=scores))


# product with the head and gradient of the hidden states; every position once
STUDENT_ONCE = 2 * 2 * N * V * D
TEACHER_AT_PARTNERS = 2 * _tokens_of_spans(longer=False) * W * E


def test_a_term_position_by_position_applies_both_heads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (3, 100):
        flops, _ = _passed([VocabularyProjectionConfig()], chunk=chunk, monkeypatch=monkeypatch)
        assert flops == STUDENT_ONCE + TEACHER_AT_PARTNERS


@pytest.mark.parametrize("settings", [[SpanLikelihoodConfig()], [CrossEntropyConfig(), SpanLikelihoodConfig()]])
@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_all_tiles_but_the_first_are_made_twice_and_the_teacher_s_once(
    chunk: int, settings: list[TermConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    flops, _ = _passed(settings, chunk=chunk, monkeypatch=monkeypatch)
    assert flops == STUDENT_ONCE + 2 * max(0, N - chunk) * V * D + 2 * M * W * E


def test_only_the_longer_spans_are_observed_where_no_other_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = _tokens_of_spans(longer=True)
    assert 0 < longer < N
    _, expected = _passed([MergedSpansConfig()], chunk=100, monkeypatch=monkeypatch, all_observed=True)
    for chunk in (3, N - 1, 100):
        flops, found = _passed([MergedSpansConfig()], chunk=chunk, monkeypatch=monkeypatch)
        every, _ = _passed([MergedSpansConfig()], chunk=chunk, monkeypatch=monkeypatch, all_observed=True)
        # a chunk that holds most of the positions is observed as it is: it is still there when the gradient is made
        assert every - flops == 2 * max(0, N - chunk - longer) * V * D
        for part, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(part, whole)


def test_where_every_span_is_one_token_none_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate([TOY.row(0, "a", "2 3 1", end=False)])
    flops, (nats_N, *gradients) = _passed([MergedSpansConfig()], chunk=2, monkeypatch=monkeypatch, batch=batch)
    assert flops == 2 * 2 * 5 * V * D + 2 * 5 * W * E
    _, expected = _passed([MergedSpansConfig()], chunk=9, monkeypatch=monkeypatch, batch=batch, all_observed=True)
    for part, whole in zip((nats_N, *gradients), expected, strict=True):
        torch.testing.assert_close(part, whole)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_beside_each_other_they_give_what_each_gives(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[TermConfig] = [MergedSpansConfig(), VocabularyProjectionConfig(), SpanLikelihoodConfig()]
    _, together = _passed(settings, chunk=chunk, monkeypatch=monkeypatch)
    alone = [_passed([item], chunk=100, monkeypatch=monkeypatch)[1] for item in settings]
    for place, (values, *_) in enumerate(alone):
        torch.testing.assert_close(together[place], values)
    for place in (1, 2):
        torch.testing.assert_close(together[len(settings) - 1 + place], sum(parts[place] for parts in alone))
