"""Vocabulary projection found the naive way: groups by strings, sums by loops, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distillab.data.paired import PairedRow
from tests.objectives.toy_pair import TOY, Naive, Toy, scored_spans, text_losses


def naive_divergence(p: Tensor, q: Tensor, values: dict[str, Any]) -> Tensor:
    def kl(a: Tensor, b: Tensor) -> Tensor:
        return sum((x * (x / y).log() for x, y in zip(a, b, strict=True) if float(x.detach()) > 0), torch.zeros(()))

    match values["divergence"]:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "total_variation":
            return 0.5 * (p - q).abs().sum()
    w = values["teacher_weight"]
    m = w * p + (1 - w) * q
    return w * kl(p, m) + (1 - w) * kl(q, m)


def _text(token: str) -> str:
    return "a" if token == "<a>" else token


def _label(toy: Toy, token: str, form: str, *, student: bool) -> str | None:
    """The common token by which both sides, asked in turn, would begin this one's text; None where there is none."""
    token = _text(token)
    other = (toy.teacher if student else toy.student).tokens
    if token in other:
        return token
    if form == "common" or token[0] == "<":
        return None
    first = (toy.teacher if student else toy.student).cut(token)[0]
    return _label(toy, other[first], form, student=not student)


def _begins(toy: Toy, token: str, path: list[int]) -> bool:
    """Whether the teacher spells a student token with several, and first these."""
    own = toy.path(token)
    return len(own) > 1 and own[: len(path)] == path


def naive_projection(values: dict[str, Any], toy: Toy = TOY) -> Naive:
    strict, temperature = values["form"] == "strict", values.get("temperature", 1.0)
    form = "common" if strict else values["form"]
    ours, theirs = toy.student.tokens, toy.teacher.tokens
    factor = temperature**2 if values.get("rescale_by_temperature_squared") else 1.0

    rest = values.get("rest", "text") == "text"

    def position(
        q: Tensor, p: Tensor, target: int, teacher_ids: list[int], further: float, whole: bool, cold: Tensor
    ) -> Tensor:
        labels = [_label(toy, token, form, student=True) for token in ours]
        their_labels = [_label(toy, token, form, student=False) for token in theirs]
        event = float(p[teacher_ids[0]]) * further
        left = p.clone()
        path = toy.path(ours[target])
        inside = [_begins(toy, token, path) for token in ours]
        group = [label == labels[target] for label in labels]
        alone = form == "projected" and whole and len(path) > 1 and sum(group) > sum(inside)
        outcomes: list[tuple[float | Tensor, float | Tensor]] = []
        given = 0.0
        if alone:
            left[teacher_ids[0]] -= event
            longer = [
                token not in ours and token[0] != "<" and inside[toy.student.cut(_text(token))[0]] for token in theirs
            ]
            q_one = sum(x for x, here in zip(q, inside, strict=True) if here)
            outcomes.append((event + sum(float(x) for x, here in zip(left, longer, strict=True) if here), q_one))
            left = torch.tensor([0.0 if here else float(x) for x, here in zip(left, longer, strict=True)]).double()
        elif labels[target] != their_labels[teacher_ids[0]]:
            left[teacher_ids[0]] -= event
            given = event
        for label in dict.fromkeys(labels):
            if label is None or label not in their_labels:
                continue
            mine = [
                x
                for x, label_x, inner in zip(q, labels, inside, strict=True)
                if label_x == label and not (alone and inner)
            ]
            its = sum(float(x) for x, label_x in zip(left, their_labels, strict=True) if label_x == label)
            outcomes.append((its + (given if label == labels[target] else 0.0), sum(mine)))
        p_all = torch.tensor([float(a) for a, _ in outcomes], dtype=torch.float64)
        q_all = torch.stack([b for _, b in outcomes])  # type: ignore[arg-type]
        value = factor * p_all.sum() * naive_divergence(p_all / p_all.sum(), q_all / q_all.sum(), values)
        return value + within(cold, target, inside if alone else group, labels, their_labels) if rest else value

    def within(
        cold: Tensor, target: int, members: list[bool], labels: list[str | None], their_labels: list[str | None]
    ) -> Tensor:
        if labels[target] is None or labels[target] not in their_labels:
            return -cold[target].log()
        outcome = torch.stack([x for x, member in zip(cold, members, strict=True) if member]).sum()
        said = [x for x, label in zip(cold, labels, strict=True) if label is not None and label in their_labels]
        return -(cold[target] / outcome).log() - torch.stack(said).sum().log()

    def naive(rows: Sequence[PairedRow], student: dict[int, Tensor], teacher: dict[int, Tensor]) -> tuple[Tensor, int]:
        found = []
        for row in rows:
            begun = set()
            for mine, its in scored_spans(row):
                begin = _text(ours[row.student.input_ids[mine[0]]]), _text(theirs[row.teacher.input_ids[its[0]]])
                if strict and not (len(mine) == len(its) == 1 and begin[0] == begin[1]):
                    continue
                q = (student[row.index][mine[0] - 1, : len(ours)] / temperature).softmax(-1)
                p = (teacher[row.index][its[0] - 1, : len(theirs)] / temperature).softmax(-1)
                ids = [int(row.teacher.input_ids[j]) for j in its]
                further = math.prod(
                    float(teacher[row.index][j - 1, : len(theirs)].softmax(-1)[id_])
                    for j, id_ in zip(its[1:], ids[1:], strict=True)
                )
                cold = student[row.index][mine[0] - 1, : len(ours)].softmax(-1)
                found.append(position(q, p, int(row.student.input_ids[mine[0]]), ids, further, len(mine) == 1, cold))
                begun.add(mine[0])
            if rest:
                found += text_losses(row, student[row.index][:, : len(ours)], begun)
        return torch.stack(found).sum(), len(found)

    return naive
