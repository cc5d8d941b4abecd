"""Attention relations against loops in float64 that share nothing with the code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillab.config.layer_terms import AttentionRelationsConfig, Positions
from distillab.errors import ConfigError
from distillab.models.activations import Activations
from distillab.models.projections import QKV
from distillab.models.structure import ModelShape
from distillab.objectives import attention_relations
from distillab.objectives.attention_relations import AttentionRelations
from tests.objectives.attention_samples import SAMPLES, Layout, Sample, batch_of, chosen, place

STUDENT = ModelShape(blocks=2, width=24, heads=4, key_value_heads=2, head_width=6)
TEACHER = ModelShape(blocks=3, width=48, heads=6, key_value_heads=6, head_width=8)


def lay_out(parts: list[Tensor], samples: list[Sample], layout: Layout, fill: float) -> Tensor:
    """One (n, E) tensor a sample -> (B, L, E); padding holds `fill`, which nothing may read."""
    owners = torch.tensor(place(samples, layout))
    laid = torch.full((*owners.shape, parts[0].shape[-1]), fill)
    for number, part in enumerate(parts):
        laid[owners == number] = part.float()
    return laid


def widths(shape: ModelShape) -> dict[str, int]:
    narrow = shape.key_value_heads * shape.head_width
    return {"query": shape.heads * shape.head_width, "key": narrow, "value": narrow}


def drawn(samples: list[Sample], shape: ModelShape, seed: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: [torch.randn(length, width, generator=generator, dtype=torch.float64) for length, _ in samples]
        for name, width in widths(shape).items()
    }


def projections(parts: dict[str, list[Tensor]], samples: list[Sample], layout: Layout, fill: float = 9.0) -> QKV:
    return QKV(**{name: lay_out(part, samples, layout, fill) for name, part in parts.items()})


def naive_relations(
    student: dict[str, list[Tensor]],
    teacher: dict[str, list[Tensor]],
    samples: list[Sample],
    *,
    heads: int,
    positions: Positions = "answer",
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for number, sample in enumerate(samples):
        for t in chosen(sample, positions):
            for name in student:
                for head in range(heads):
                    p = relation(teacher[name][number], t, head, heads)
                    q = relation(student[name][number], t, head, heads)
                    for s in range(t + 1):
                        total = total + p[s] * (p[s].log() - q[s].log()) / (heads * len(student))
    return total


def relation(x: Tensor, t: int, head: int, heads: int) -> list[Tensor]:
    width = x.shape[1] // heads
    cut = x[:, head * width : (head + 1) * width]
    powers = [((cut[t] * cut[s]).sum() / math.sqrt(width)).exp() for s in range(t + 1)]
    return [power / sum(powers) for power in powers]


def term(**given: Any) -> AttentionRelations:
    return AttentionRelations(AttentionRelationsConfig(**given), student=STUDENT, teacher=TEACHER)


def captured(student: QKV, teacher: QKV) -> tuple[Activations, Activations]:
    return Activations(projections={2: student}), Activations(projections={3: teacher})


@pytest.fixture(params=[4, 2**18], ids=["one row a chunk", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention_relations._CHUNK_ENTRIES, "cpu", request.param)


@pytest.mark.parametrize("layout", ["left", "right", "packed"])
@pytest.mark.parametrize("positions", ["answer", "all"])
def test_relations_are_the_naive_loops_in_value_and_gradient(layout: Layout, positions: Positions, chunk: None) -> None:
    ours = term(positions=positions, heads=4)
    student, teacher = drawn(SAMPLES, STUDENT, 1), drawn(SAMPLES, TEACHER, 2)
    for parts in student.values():
        for part in parts:
            part.requires_grad_()
    laid = projections(student, SAMPLES, layout)
    total = ours.total(*captured(laid, projections(teacher, SAMPLES, layout)), batch_of(SAMPLES, layout))
    wanted = naive_relations(student, teacher, SAMPLES, heads=4, positions=positions)
    assert total.dtype == torch.float32 and total.shape == ()
    torch.testing.assert_close(total.double(), wanted, rtol=1e-5, atol=1e-5)
    leaves = [part for parts in student.values() for part in parts]
    naive = torch.autograd.grad(wanted, leaves, allow_unused=True)
    for got, want in zip(torch.autograd.grad(3 * total, leaves), naive, strict=True):
        torch.testing.assert_close(got, 3 * want if want is not None else torch.zeros_like(got), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_split_side_and_packing_change_nothing(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    samples = [(length, data.draw(st.integers(1, length))) for length in lengths]
    seed, positions = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(["answer", "all"]))
    ours = term(positions=positions)
    student, teacher = drawn(samples, STUDENT, seed), drawn(samples, TEACHER, seed + 1)
    results = []
    for layout in ("left", "right", "packed"):
        batch = batch_of(samples, layout)
        sides = captured(projections(student, samples, layout), projections(teacher, samples, layout))
        results.append((float(ours.total(*sides, batch)), ours.count(batch)))
    alone = [0.0, 0]
    for number, sample in enumerate(samples):
        batch = batch_of([sample], "right")
        pick = [{name: [parts[number]] for name, parts in side.items()} for side in (student, teacher)]
        sides = captured(*(projections(side, [sample], "right") for side in pick))
        alone[0] += float(ours.total(*sides, batch))
        alone[1] += ours.count(batch)
    for total, count in results:
        assert total == pytest.approx(alone[0], rel=1e-4, abs=1e-5)
        assert count == alone[1] == sum(len(chosen(sample, positions)) for sample in samples)


def test_one_relation_alone_and_given_heads() -> None:
    student, teacher = drawn(SAMPLES, STUDENT, 1), drawn(SAMPLES, TEACHER, 2)
    ours = term(relations=("key",), heads=3)
    total = ours.total(
        *captured(projections(student, SAMPLES, "left"), projections(teacher, SAMPLES, "left")),
        batch_of(SAMPLES, "left"),
    )
    wanted = naive_relations({"key": student["key"]}, {"key": teacher["key"]}, SAMPLES, heads=3)
    torch.testing.assert_close(total.double(), wanted, rtol=1e-5, atol=1e-5)


def test_layer_pairs_are_averaged() -> None:
    ours = term(layers=((1, 1), (2, 3)))
    assert ours.student_activations.projections == {1, 2} and ours.teacher_activations.projections == {1, 3}
    parts = [drawn(SAMPLES, shape, seed) for seed, shape in enumerate((STUDENT, STUDENT, TEACHER, TEACHER))]
    laid = [projections(part, SAMPLES, "right") for part in parts]
    student, teacher = (
        Activations(projections={1: laid[0], 2: laid[1]}),
        Activations(projections={1: laid[2], 3: laid[3]}),
    )
    wanted = [
        naive_relations(parts[0], parts[2], SAMPLES, heads=12),
        naive_relations(parts[1], parts[3], SAMPLES, heads=12),
    ]
    total = ours.total(student, teacher, batch_of(SAMPLES, "right"))
    torch.testing.assert_close(total.double(), sum(wanted) / 2, rtol=1e-5, atol=1e-5)


def test_a_batch_without_a_chosen_position_gives_zero_and_a_gradient() -> None:
    samples: list[Sample] = [(3, 3), (2, 2)]
    laid = projections(drawn(samples, STUDENT, 1), samples, "right")
    laid.query.requires_grad_()
    ours, batch = term(), batch_of(samples, "right")
    total = ours.total(*captured(laid, projections(drawn(samples, TEACHER, 2), samples, "right")), batch)
    total.backward()
    assert float(total.detach()) == 0 and ours.count(batch) == 0
    assert laid.query.grad is not None and not laid.query.grad.any()


def test_half_precision_is_widened_before_the_products() -> None:
    student, teacher = drawn(SAMPLES, STUDENT, 1), drawn(SAMPLES, TEACHER, 2)
    rough = [{k: [p.bfloat16().double() for p in ps] for k, ps in side.items()} for side in (student, teacher)]
    sides = [projections(side, SAMPLES, "right") for side in rough]
    halves = [QKV(*(getattr(side, k).bfloat16() for k in ("query", "key", "value"))) for side in sides]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = term().total(*captured(*halves), batch_of(SAMPLES, "right"))
    torch.testing.assert_close(total.double(), naive_relations(*rough, SAMPLES, heads=12), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("relations", "heads"), [(("query", "key", "value"), 12), (("query",), 12), (("value",), 12)])
def test_the_default_is_the_most_heads_that_divide_every_width(relations: tuple[str, ...], heads: int) -> None:
    # query 24 and 48, key and value 12 and 48
    assert term(relations=relations).heads == heads


def test_the_default_has_at_most_sixteen_heads() -> None:
    wide = ModelShape(blocks=2, width=64, heads=4, key_value_heads=2, head_width=32)
    assert AttentionRelations(AttentionRelationsConfig(), student=wide, teacher=wide).heads == 16
    odd = ModelShape(blocks=2, width=35, heads=5, key_value_heads=5, head_width=7)
    assert AttentionRelations(AttentionRelationsConfig(), student=odd, teacher=odd).heads == 7


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="must divide") as caught:
        term(heads=8)
    assert "student key: 12" in str(caught.value) and "divisor of 12" in str(caught.value)
