"""Attention maps against loops over the heads that share nothing with the code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distillab.config.layer_terms import AttentionMapsConfig
from distillab.errors import ConfigError
from distillab.models.activations import Activations
from distillab.models.structure import ModelShape
from distillab.objectives.attention_maps import AttentionMaps
from tests.objectives.attention_samples import SAMPLES, Layout, Sample, batch_of, chosen, place


def map_of(scores: Tensor, samples: list[Sample], layout: Layout) -> Tensor:
    """(B, H, L, L) softmax of scores that are the same for a sample wherever it stands; 0 where nothing is read."""
    owners = place(samples, layout)
    heads, length = scores.shape[1], len(owners[0])
    made = torch.zeros(len(owners), heads, length, length, dtype=torch.float64)
    for row, line in enumerate(owners):
        for number, (size, _) in enumerate(samples):
            if number not in line:
                continue
            start = line.index(number)
            for t in range(size):
                part = scores[number, :, t, : t + 1].softmax(-1)
                made[row, :, start + t, start : start + t + 1] = part
    return made.float()


def naive_maps(student: Tensor, teacher: Tensor, samples: list[Sample], *, mean: bool) -> float:
    total = 0.0
    for number, sample in enumerate(samples):
        for t in chosen(sample, "answer"):
            p = [teacher[number, head, t, : t + 1].softmax(-1) for head in range(teacher.shape[1])]
            q = [student[number, head, t, : t + 1].softmax(-1) for head in range(student.shape[1])]
            if mean:
                p, q = [sum(p) / len(p)], [sum(q) / len(q)]
            for one, other in zip(p, q, strict=True):
                total += sum(float(a * (a / b).log()) for a, b in zip(one, other, strict=True)) / len(p)
    return total


def maps_term(heads: str, student_heads: int, teacher_heads: int) -> AttentionMaps:
    shapes = [
        ModelShape(blocks=1, width=8, heads=h, key_value_heads=h, head_width=4) for h in (student_heads, teacher_heads)
    ]
    return AttentionMaps(AttentionMapsConfig(heads=heads), student=shapes[0], teacher=shapes[1])


@pytest.mark.parametrize("layout", ["left", "right", "packed"])
@pytest.mark.parametrize(("heads", "of_student"), [("matched", 3), ("mean", 3), ("mean", 2)])
def test_maps_are_the_naive_loops(layout: Layout, heads: str, of_student: int) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (3 * torch.randn(4, h, 9, 9, generator=generator, dtype=torch.float64) for h in (of_student, 3))
    ours, batch = maps_term(heads, of_student, 3), batch_of(SAMPLES, layout)
    sides = [Activations(maps={1: map_of(scores, SAMPLES, layout)}) for scores in (student, teacher)]
    wanted = naive_maps(student, teacher, SAMPLES, mean=heads == "mean")
    assert float(ours.total(*sides, batch)) == pytest.approx(wanted, rel=1e-5)
    assert ours.count(batch) == 3 + 3 + 0 + 2


def test_the_gradient_of_a_map_is_finite_where_nothing_is_read() -> None:
    student = torch.randn(4, 3, 9, 9)
    laid = map_of(student, SAMPLES, "right").requires_grad_()
    teacher = map_of(torch.randn(4, 3, 9, 9), SAMPLES, "right")
    maps_term("matched", 3, 3).total(
        Activations(maps={1: laid}), Activations(maps={1: teacher}), batch_of(SAMPLES, "right")
    ).backward()
    assert laid.grad is not None and bool(laid.grad.isfinite().all()) and bool(laid.grad.any())


def test_half_precision_maps_give_no_negative_divergence() -> None:
    torch.manual_seed(0)
    laid = map_of(4 * torch.randn(4, 3, 9, 9), SAMPLES, "right")
    ours, batch = maps_term("matched", 3, 3), batch_of(SAMPLES, "right")
    rough = Activations(maps={1: (laid.bfloat16() * 0.99)})  # rows that sum to less than one
    exact = Activations(maps={1: laid.bfloat16()})
    assert float(ours.total(exact, exact, batch)) == pytest.approx(0, abs=1e-6)
    assert 0 <= float(ours.total(rough, exact, batch)) < 1e-3


def test_unequal_numbers_of_heads_cannot_be_matched() -> None:
    with pytest.raises(ConfigError, match="the same number") as caught:
        maps_term("matched", 2, 3)
    assert "heads: mean" in str(caught.value)


def test_where_the_student_never_looks_the_logarithm_has_a_floor() -> None:
    samples: list[Sample] = [(6, 6)]  # chosen: the fifth position, which the teacher reads from evenly
    window = map_of(torch.zeros(1, 1, 9, 9), samples, "right")
    narrow = window * torch.ones(7, 7).tril().triu(-1)  # the student sees itself and the one before
    narrow = (narrow / narrow.sum(-1, keepdim=True).clamp(min=0.1)).requires_grad_()
    batch = batch_of(samples, "right")
    batch["answer_mask"][0, 5] = True
    total = maps_term("matched", 1, 1).total(Activations(maps={1: narrow}), Activations(maps={1: window}), batch)
    wanted = 2 / 5 * math.log((1 / 5) / (1 / 2)) + 3 / 5 * (math.log(1 / 5) + 126 * math.log(2))
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-6)
    total.backward()
    assert narrow.grad is not None and bool(narrow.grad.isfinite().all())
