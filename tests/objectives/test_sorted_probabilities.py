"""Sorted probabilities against a naive computation, and what they cannot see."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.config.terms import SortedProbabilitiesConfig
from distillab.data.paired import PairedRow
from distillab.errors import TeacherError
from distillab.models import chunking
from distillab.objectives.sorted_probabilities import SortedProbabilities, sorted_distance
from distillab.objectives.term import StudentScores
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import FullLogits
from tests.objectives.toy_pair import (
    ROWS,
    STUDENT,
    TEACHER,
    D,
    Naive,
    assert_same,
    collate,
    numbers_for,
    ours,
    reference,
    scored_spans,
)

V, W = len(STUDENT), len(TEACHER)
SETTINGS = [{"positions": p, "temperature": t} for p in ("ordinal", "boundaries") for t in (1.0, 3.0)]
each_setting = pytest.mark.parametrize("values", SETTINGS, ids=lambda v: f"{v['positions']}-{v['temperature']:g}")


def _term(student_width: int = V, teacher_width: int = W, **values: Any) -> SortedProbabilities:
    settings = SortedProbabilitiesConfig(**values)
    return SortedProbabilities(settings, student_width=student_width, teacher_width=teacher_width)


def naive_distance(values: dict[str, Any]) -> Naive:
    def pairs(row: PairedRow) -> list[tuple[int, int]]:
        """Token by token: indices of the two tokens that are predicted."""
        if values["positions"] == "ordinal":
            answers = [[i for i, m in enumerate(side.answer_mask) if m] for side in (row.student, row.teacher)]
            return list(zip(*answers, strict=False))
        return [(mine[0], its[0]) for mine, its in scored_spans(row)]

    def naive(rows: Sequence[PairedRow], s: dict[int, Tensor], t: dict[int, Tensor]) -> tuple[Tensor, int]:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for row in rows:
            for i, j in pairs(row):
                q = (s[row.index][i - 1, :V] / values["temperature"]).softmax(-1)
                p = (t[row.index][j - 1, :W] / values["temperature"]).softmax(-1)
                mine, its = sorted(q, key=float, reverse=True), sorted(p.tolist(), reverse=True)
                for a, b in itertools.zip_longest(mine, its, fillvalue=0.0):
                    total = total + abs(a - b)
                count += 1
        return total, count

    return naive


def _case(seed: int = 0) -> tuple[dict[int, Tensor], Tensor, dict[int, Tensor]]:
    head = torch.randn(V + 2, D, generator=torch.Generator().manual_seed(seed))
    hidden = numbers_for(ROWS, seed=seed, teacher=False, width=D)
    return hidden, head, numbers_for(ROWS, seed=seed + 1, teacher=True, width=W + 3)


@each_setting
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_equals_a_naive_computation(values: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "LEAST_ROWS", chunk)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", 0)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, chunk // 2) * 4 * (V + 2))
    hidden, head, teacher = _case()
    expected = reference(naive_distance(values), ROWS, hidden, head, teacher)
    assert_same(ours(_term(**values), [collate(ROWS)], hidden, head, teacher), expected)


@each_setting
@pytest.mark.parametrize("split", [[[3, 1], [2, 0]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("sides", [*itertools.product(["left", "right"], repeat=2)])
def test_split_order_and_padding_change_nothing(values: dict[str, Any], split: list[list[int]], sides: Any) -> None:
    hidden, head, teacher = _case(1)
    expected = ours(_term(**values), [collate(ROWS)], hidden, head, teacher)
    batches = [collate([ROWS[i] for i in part], *sides) for part in split]
    assert_same(ours(_term(**values), batches, hidden, head, teacher), expected, tolerance=1e-6)


@pytest.mark.parametrize("positions", ["ordinal", "boundaries"])
def test_a_permuted_vocabulary_is_no_distance_and_a_place_late_is_one(positions: str) -> None:
    """Rows that both cut into as many tokens: the logits of either side stand at the same places, but for the BOS."""
    teacher = numbers_for(ROWS, seed=2, teacher=True, width=W)
    order = torch.randperm(W, generator=torch.Generator().manual_seed(0))
    rows, student = [], {}
    for row in ROWS:
        # the student reads the teacher's own tokens here
        twin = PairedRow(row.index, row.teacher, row.teacher, row.teacher_spans, row.teacher_spans)
        rows.append(twin)
        student[row.index] = teacher[row.index][:, order]
    term = _term(W, W, positions=positions)
    assert ours(term, [collate(rows)], student, torch.eye(W), teacher).total < 1e-5
    late = {row: x.roll(-1, dims=0) for row, x in teacher.items()}
    assert ours(term, [collate(rows)], student, torch.eye(W), late).total > 1.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), v=st.integers(1, 9), w=st.integers(1, 9), scale=st.floats(0.1, 20.0))
def test_lies_between_0_and_2_and_looks_at_no_token(seed: int, v: int, w: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, p = ((scale * torch.randn(4, n, generator=generator)).softmax(-1) for n in (v, w))
    found = sorted_distance(q, p)
    assert bool((found >= 0).all()) and bool((found <= 2 + 1e-6).all())
    shuffled = q[:, torch.randperm(v, generator=generator)]
    torch.testing.assert_close(sorted_distance(shuffled, p), found)
    torch.testing.assert_close(sorted_distance(p, q), found)


def test_a_teacher_that_was_not_looked_up_by_number_is_refused() -> None:
    one = torch.ones(1, dtype=torch.bool)
    said = AlignedTokens(one, FullLogits(torch.zeros(1, W)), torch.zeros(1, dtype=torch.int64), torch.zeros(1), one)
    scores = StudentScores(torch.zeros(1, V), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TeacherError, match="not looked up"):
        _term().per_position(scores, said)
    with pytest.raises(TeacherError, match="reads two tokenisations, and the batch has one"):
        _term().per_position(scores, FullLogits(torch.zeros(1, W)))
