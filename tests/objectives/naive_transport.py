"""Measured transport found the naive way: counts by strings, sums by loops, in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distillab.data.paired import PairedRow
from tests.objectives.naive_projection import naive_divergence
from tests.objectives.toy_pair import ROWS, STUDENT, TEACHER, TOY, Naive, scored_spans, text_losses

V, W = len(STUDENT), len(TEACHER)
COUNTED = [*ROWS, TOY.row(4, "cab", "abc ab1 32"), TOY.row(5, " a", "bc abc")]
Shares = dict[str, dict[str, float]]
# (student's probabilities, those at temperature 1, teacher's, next token of each) -> nats without and with the text
Position = Callable[[Tensor, Tensor, Tensor, str, str], tuple[Tensor, Tensor]]


def _text(token: str) -> str:
    return "a" if token == "<a>" else token


def _special(token: str) -> bool:
    return token[0] == "<" and token != "<a>"


def _first(token: str) -> str | None:
    """The student token by which the text of a teacher token begins."""
    if _special(token):
        return token if token in STUDENT else None
    return STUDENT[TOY.student.cut(_text(token))[0]]


def _counts() -> Counter[tuple[str, str]]:
    """How often both begin a token: the teacher's and the student's."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in COUNTED:
        for span in range(int(row.student_spans.max()) + 1):
            first = list(row.student_spans).index(span), list(row.teacher_spans).index(span)
            counts[TEACHER[row.teacher.input_ids[first[1]]], STUDENT[row.student.input_ids[first[0]]]] += 1
    return counts


def _divided(weights: Shares) -> Shares:
    return {row: {to: n / sum(own.values()) for to, n in own.items()} for row, own in weights.items()}


def naive_kernel(form: str, prior: float) -> Shares:
    """Teacher token -> student token -> share."""
    weights: Shares = {token: {} for token in TEACHER}
    for token in TEACHER:
        if form == "longest_prefix":
            found = [own for own in STUDENT if own[0] != "<" and _text(token).startswith(own)]
            own = _first(token) if _special(token) else max(found, key=len, default=None)
            weights[token] = {} if own is None else {own: 1.0}
        elif (own := _first(token)) is not None:
            weights[token] = {own: prior}
    if form == "measured":
        for (theirs, own), n in _counts().items():
            weights[theirs][own] = weights[theirs].get(own, 0.0) + n
    return _divided(weights)


def naive_outcomes(prior: float) -> Shares:
    """Student token -> teacher token -> share."""
    weights: Shares = {token: {} for token in STUDENT}
    for (theirs, own), n in _counts().items():
        weights[own][theirs] = float(n)
    for own in STUDENT:
        path = TOY.path(own)
        if path:
            first = TEACHER[path[0]]
            weights[own][first] = weights[own].get(first, 0.0) + prior
    reached = {token for row in weights.values() for token in row}
    for theirs in set(TEACHER) - reached:
        own_first = _first(theirs)
        if own_first is not None:
            weights[own_first][theirs] = prior
    return _divided(weights)


def naive_transport(values: dict[str, Any], *, rest: bool, form: str, prior: float, k: int | None) -> Naive:
    temperature = values.get("temperature", 1.0)
    factor = temperature**2 if values.get("rescale_by_temperature_squared") else 1.0
    position = (
        _of_the_teacher_s_tokens(values, factor, naive_outcomes(prior), k)
        if form == "outcomes"
        else _of_the_student_s_tokens(values, factor, naive_kernel(form, prior), k)
    )

    def naive(rows: Sequence[PairedRow], student: dict[int, Tensor], teacher: dict[int, Tensor]) -> tuple[Tensor, int]:
        found = []
        for row in rows:
            begun = set()
            logits_LV = student[row.index][:, :V]
            for mine, its in scored_spans(row):
                logits = logits_LV[mine[0] - 1]
                u, v = STUDENT[row.student.input_ids[mine[0]]], TEACHER[row.teacher.input_ids[its[0]]]
                p = (teacher[row.index][its[0] - 1, :W] / temperature).softmax(-1)
                alone, both = position((logits / temperature).softmax(-1), logits.softmax(-1), p, u, v)
                found.append(both if rest else alone)
                begun.add(mine[0])
            if rest:
                found += text_losses(row, logits_LV, begun)
        return torch.stack(found).sum(), len(found)

    return naive


def _kept(p: Tensor, k: int | None) -> list[int]:
    return sorted(range(W), key=lambda w: -float(p[w]))[: k or W]


def _of_the_student_s_tokens(values: dict[str, Any], factor: float, kernel: Shares, k: int | None) -> Position:
    def position(q: Tensor, cold: Tensor, p: Tensor, u: str, v: str) -> tuple[Tensor, Tensor]:
        kept = _kept(p, k)
        carried = [0.0] * V
        for w in kept:
            for own, share in kernel[TEACHER[w]].items():
                carried[STUDENT.index(own)] += float(p[w]) * share
        p_all, q_all = torch.tensor(carried), q
        if k is not None:
            reached = [u for u in range(V) if carried[u] > 0]
            assert len(reached) < V
            tail = sum(float(p[w]) for w in range(W) if w not in kept)
            p_all = torch.tensor([*(carried[u] for u in reached), tail])
            q_all = torch.cat([q[reached], q.sum()[None] - q[reached].sum()])
        p_all = p_all.double()
        mass = p_all.sum()
        value = mass * factor * naive_divergence(p_all / mass, q_all, values)
        return value, value - (1 - mass) * cold[STUDENT.index(u)].log()

    return position


def _of_the_teacher_s_tokens(values: dict[str, Any], factor: float, shares: Shares, k: int | None) -> Position:
    reached = [w for w in range(W) if any(TEACHER[w] in row for row in shares.values())]
    assert len(reached) < W

    def carried(q: Tensor) -> Tensor:
        found = torch.stack(
            [sum(q[STUDENT.index(u)] * row.get(TEACHER[w], 0.0) for u, row in shares.items()) for w in reached]
        )
        return found / found.sum()

    def position(q: Tensor, cold: Tensor, p: Tensor, u: str, v: str) -> tuple[Tensor, Tensor]:
        kept = _kept(p, k)
        inside = [place for place, w in enumerate(reached) if w in kept]
        p_all, q_all = p[[reached[place] for place in inside]], carried(q)[inside]
        if k is not None:
            tail = sum(float(p[w]) for w in range(W) if w not in kept)
            p_all = torch.cat([p_all, torch.tensor([tail]).double()])
            q_all = torch.cat([q_all, 1 - q_all.sum()[None]])
        mass = p_all.sum()
        value = mass * factor * naive_divergence(p_all / mass, q_all, values)
        of_text = carried(cold)[reached.index(TEACHER.index(v))].log() if v in shares[u] else 0.0
        return value, value + mass * of_text - cold[STUDENT.index(u)].log()

    return position
