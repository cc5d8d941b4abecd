"""A teacher's scores, read from the student's positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distillab.models.heads import OutputHead
from distillab.models.scoring import at_scored, scored_targets
from distillab.teachers.aligned import AlignedScores, align
from distillab.teachers.signals import ChunkedScores, FullLogits, HeadInputs
from tests.objectives.toy_pair import ROWS, TEACHER, D, collate, laid_out, numbers_for

W = len(TEACHER)
CPU = torch.device("cpu")
BATCH = collate(ROWS, "left", "right")
HEAD = torch.randn(W + 2, D, generator=torch.Generator().manual_seed(0))
HIDDEN = at_scored(laid_out(BATCH["teacher"], numbers_for(ROWS, seed=5, teacher=True, width=D)), BATCH["teacher"])
LOGITS = HIDDEN @ HEAD.T


def _aligned(scores: ChunkedScores | None = None, *, ordinal: bool = True) -> AlignedScores:
    return align(scores or FullLogits(LOGITS), BATCH, width=W, ordinal=ordinal, continues=True, device=CPU)


def _naive_logp() -> list[list[float]]:
    """(M, W) at temperature 1, the two unused rows left out."""
    found = []
    for row in LOGITS.double().tolist():
        total = math.log(sum(math.exp(x) for x in row[:W]))
        found.append([x - total for x in row[:W]])
    return found


@pytest.mark.parametrize("head", [False, True], ids=["logits", "hidden states"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_tiles_say_what_the_partners_say(head: bool, size: int) -> None:
    scores = HeadInputs(HIDDEN, OutputHead(HEAD)) if head else FullLogits(LOGITS)
    aligned = _aligned(scores)
    expected, count = torch.tensor(_naive_logp()), len(scored_targets(BATCH))
    for start in range(0, count, size):
        here = slice(start, min(start + size, count))
        said = aligned.chunk(here, CPU)
        for pair, found in ((said, BATCH["alignment"].partner_N), (said.by_order, BATCH["alignment"].ordinal_N)):
            assert pair is not None
            wanted = found[here]
            assert pair.has.tolist() == (wanted >= 0).tolist()
            logp = pair.teacher.logp(W, 1.0)
            torch.testing.assert_close(logp, expected[wanted[wanted >= 0]].float(), rtol=1e-5, atol=1e-6)


def test_pieces_of_a_tile_are_the_same_at_some_of_its_positions() -> None:
    said = _aligned().chunk(slice(0, 20), CPU)
    for start in range(0, 20, 3):
        here = slice(start, start + 3)
        piece, alone = said.rows(here), _aligned().chunk(slice(start, min(start + 3, 20)), CPU)
        for name in ("has", "teacher_ids", "continuation_logp", "whole"):
            assert torch.equal(getattr(piece, name), getattr(alone, name)), name
        assert torch.equal(piece.teacher.logp(W, 2.0), alone.teacher.logp(W, 2.0))
        assert piece.by_order is not None and alone.by_order is not None
        assert torch.equal(piece.by_order.teacher.logp(W, 1.0), alone.by_order.teacher.logp(W, 1.0))


def test_what_follows_at_a_partner_and_how_likely_it_goes_on() -> None:
    aligned, logp = _aligned(), _naive_logp()
    said = aligned.chunk(slice(0, aligned.partner_N.shape[0]), CPU)
    targets, spans = scored_targets(BATCH["teacher"]).tolist(), BATCH["alignment"].teacher.spans_N.tolist()
    our_spans, shared = BATCH["alignment"].student.spans_N.tolist(), BATCH["alignment"].shared_S.tolist()
    place = 0
    for n, span in enumerate(our_spans):
        if span < 0 or not shared[span] or our_spans.index(span) != n:
            assert not said.has[n]
            continue
        its = [m for m, number in enumerate(spans) if number == span]
        assert said.has[n] and int(said.teacher_ids[place]) == targets[its[0]]
        further = sum(logp[m][targets[m]] for m in its[1:])
        assert float(said.continuation_logp[place]) == pytest.approx(further, abs=1e-5)
        assert bool(said.whole[place]) == (our_spans.count(span) == 1)
        place += 1
    assert place == said.teacher.positions > 15


def test_an_impossible_continuation_stays_at_its_span() -> None:
    """−inf of one span may not become NaN at the positions that have no partner."""
    logits = LOGITS.clone()
    targets = scored_targets(BATCH["teacher"])
    spans = BATCH["alignment"].teacher.spans_N
    ours = BATCH["alignment"].student.spans_N.tolist()
    # the student has several tokens there too, and only the first of them has a partner
    further = next(m for m in range(1, len(spans)) if spans[m] == spans[m - 1] >= 0 and ours.count(spans[m]) > 1)
    logits[further, targets[further]] = -torch.inf
    found = _aligned(FullLogits(logits)).continuation_N
    assert not bool(found.isnan().any()) and int(found.isinf().sum()) == 1


def test_ordinal_partners_are_looked_up_only_where_asked() -> None:
    assert _aligned(ordinal=False).chunk(slice(0, 3), CPU).by_order is None


def test_a_tile_without_partners_is_empty() -> None:
    aligned = _aligned(HeadInputs(HIDDEN, OutputHead(HEAD)), ordinal=False)
    lonely = (aligned.partner_N < 0).nonzero()[:, 0]
    said = aligned.chunk(lonely[:1], CPU)
    assert said.teacher.positions == 0 and said.has.tolist() == [False]
    assert isinstance(said.tensors(), dict)
    values: Tensor = said.teacher.logp(W, 1.0)
    assert values.shape == (0, W)
