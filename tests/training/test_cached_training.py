"""A run that reads a cache is the run that reads the teacher: the same curve, whatever is compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distillab.config.cache import AttentionInputsKind, FullKind, HiddenStatesKind, KindConfig, TopKKind
from distillab.config.layer_terms import AttentionRelationsConfig, HiddenStatesConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig, TopKDivergenceConfig
from tests.teachers.cache_building import build, cached, peaked_teacher
from tests.training.conftest import Train, ragged_split

SPLIT = ragged_split(12)
STEPS = 5

# kind, terms, tolerance of the loss at every step and of the weights at the end
CASES: dict[str, tuple[KindConfig, tuple[TermConfig, ...], float]] = {
    "full": (FullKind(), (TokenDivergenceConfig(), CrossEntropyConfig()), 1e-4),
    "top_k": (TopKKind(k=8, values="float16"), (TopKDivergenceConfig(k=8),), 1e-3),
    "hidden_states": (
        HiddenStatesKind(layers=(2, 3), store="exact"),
        (CrossEntropyConfig(), HiddenStatesConfig(layers=((1, 2), (2, 3)), projector="linear")),
        1e-4,
    ),
    "attention_inputs": (
        AttentionInputsKind(blocks=(3,), store="exact"),
        (CrossEntropyConfig(), AttentionRelationsConfig()),
        1e-4,
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "left, accumulated": {"padding_side": "left", "microbatch_size": 3},
    "packed": {"packing": True},
}


def run(train: Train, terms: Sequence[TermConfig], **settings: Any) -> tuple[list[float], torch.Tensor]:
    student, reports = train(terms=terms, split=SPLIT, steps=STEPS, batch_size=6, learning_rate=3e-3, **settings)
    weights = torch.cat([p.detach().reshape(-1) for p in student.parameters()])
    return [report.loss for report in reports], weights


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_that_of_the_live_teacher(name: str, train: Train, tmp_path: Path) -> None:
    kind, terms, tolerance = CASES[name]
    live = peaked_teacher()
    stored = cached(build(tmp_path / "cache", live, SPLIT.rows, [kind]))
    expected_losses, expected_weights = run(train, terms, source=live, folder=tmp_path / "live")
    assert len(set(expected_losses)) == STEPS
    for label, settings in SETTINGS.items():
        losses, weights = run(train, terms, source=stored, folder=tmp_path / label, **settings)
        assert losses == pytest.approx(expected_losses, rel=tolerance)
        assert float((weights - expected_weights).norm()) <= tolerance * float(expected_weights.norm())
