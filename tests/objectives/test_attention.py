"""Both attention terms on real models: layouts, causality, and where their gradients go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distillab.config.layer_terms import AttentionMapsConfig, AttentionRelationsConfig
from distillab.models.activations import record_activations
from distillab.models.attention import require_maps
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives.attention_maps import AttentionMaps
from distillab.objectives.attention_relations import AttentionRelations
from tests.models.attention_models import VOCABULARY, tiny
from tests.objectives.attention_samples import SAMPLES, Layout, Sample, batch_of

Make = Callable[[Any, Any], Any]
TERMS: dict[str, Make] = {
    "relations": lambda s, t: AttentionRelations(AttentionRelationsConfig(layers=((2, 2),)), student=s, teacher=t),
    "maps": lambda s, t: AttentionMaps(AttentionMapsConfig(layers=((2, 2),), heads="mean"), student=s, teacher=t),
}


def run(kind: str, student: Any, teacher: Any, batch: TokenBatch, ids: Tensor | None = None) -> Tensor:
    ours = TERMS[kind](model_shape(student), model_shape(teacher))
    for model in (student, teacher):
        require_maps(model, ours.student_activations.maps)
    found = []
    packed = bool((batch["rows"] != batch["rows"][:, :1])[batch["rows"] >= 0].any()) and len(batch["rows"]) == 1
    for model, inner in ((student, ours.student_activations), (teacher, ours.teacher_activations)):
        with record_activations(model, inner) as one:
            model(
                input_ids=batch["input_ids"] if ids is None else ids,
                attention_mask=None if packed else batch["attention_mask"],
                position_ids=batch["position_ids"],
                use_cache=False,
            )
        found.append(one)
    return ours.total(found[0], found[1], batch)


def with_tokens(samples: list[Sample], layout: Layout) -> TokenBatch:
    """Each sample has the same tokens wherever it stands."""
    batch = batch_of(samples, layout)
    generator = torch.Generator().manual_seed(4)
    for number, (length, _) in enumerate(samples):
        batch["input_ids"][batch["rows"] == number] = torch.randint(3, VOCABULARY, (length,), generator=generator)
    return batch


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_a_student_like_its_teacher_has_nothing_to_learn(kind: str) -> None:
    assert float(run(kind, tiny("llama"), tiny("llama"), with_tokens(SAMPLES, "left")).detach()) == pytest.approx(
        0, abs=1e-5
    )


@pytest.mark.parametrize("kind", sorted(TERMS))
@pytest.mark.parametrize("teacher", ["gpt_neox", "phi3", "mistral"])
def test_layouts_agree_in_real_models(kind: str, teacher: str) -> None:
    totals = [
        float(run(kind, tiny("llama", 1), tiny(teacher, 2), with_tokens(SAMPLES, layout)).detach())
        for layout in ("left", "right", "packed")
    ]
    assert totals[0] > 0.01
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_later_tokens_never_matter(kind: str) -> None:
    student, teacher = tiny("llama", 1), tiny("qwen2", 2)
    batch = with_tokens([(9, 3)], "right")
    batch["answer_mask"][:, 6:] = False  # chosen: positions 2 to 4
    changed = batch["input_ids"].clone()
    changed[:, 5:9] = 7
    before, after = (float(run(kind, student, teacher, batch, ids).detach()) for ids in (None, changed))
    assert before == pytest.approx(after, rel=1e-6) and before > 0


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_gradients_reach_the_mapped_block_and_below_and_not_the_teacher(kind: str) -> None:
    student, teacher = tiny("llama", 1), tiny("gpt_neox", 2)
    run(kind, student, teacher, with_tokens(SAMPLES, "right")).backward()
    learns = {name for name, p in student.named_parameters() if p.grad is not None and bool(p.grad.any())}
    for part in ("q_proj", "k_proj") + (("v_proj",) if kind == "relations" else ()):
        assert f"model.layers.1.self_attn.{part}.weight" in learns
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"} <= learns
    assert not any("layers.2" in name or "lm_head" in name or "layers.1.mlp" in name for name in learns)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_gradient_checkpointing_changes_nothing(kind: str) -> None:
    gradients = []
    for recompute in (False, True):
        student = tiny("llama", 1).train()
        if recompute:
            student.activation_checkpointing_enable({"use_reentrant": False})
        run(kind, student, tiny("qwen2", 2), with_tokens(SAMPLES, "right")).backward()
        gradients.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
