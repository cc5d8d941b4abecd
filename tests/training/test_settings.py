"""Every training setting changes something, or provably nothing but cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.config.run import RunRecipe
from distillab.config.terms import CrossEntropyConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.errors import ConfigError
from distillab.runs.run import execute
from distillab.training.arguments import microbatch_size
from tests.training.conftest import Train, flat_parameters, ragged_split

# settings that only say where, how often or how much at once
_COST_ONLY = {
    "microbatch_size",
    "gradient_checkpointing",
    "padding_side",
    "packing",
    "evaluate_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "checkpoint_copy",  # tests/runs/test_checkpoint_copies.py
    "deepspeed",  # tests/training/prove_zero.py
    "report_to",  # tests/training/prove_trackers.py
    "device",
}
_CHANGES: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.5,
    "adam_beta2": 0.5,
    "max_grad_norm": 1e-3,
    "precision": "bfloat16",
    "group_by_length": True,
    "gradient_shares_every": 2,
}
# what a setting needs to have an effect
_BASES: dict[str, dict[str, Any]] = {
    "group_by_length": {"batch_size": 2},
    "gradient_shares_every": {
        "method": "logits",
        "terms": (CrossEntropyConfig(), TokenDivergenceConfig(weight="balanced")),
    },
}


def test_no_setting_is_missing_here() -> None:
    of_a_study = {"budget"}  # tests/study/test_budget.py
    assert set(TrainingConfig.model_fields) == _COST_ONLY | set(_CHANGES) | of_a_study


@pytest.mark.parametrize("name", sorted(_CHANGES))
def test_the_setting_changes_the_student(train: Train, name: str, tmp_path: Path) -> None:
    base = {"method": "sft", "steps": 3, "split": ragged_split(8), **_BASES.get(name, {})}
    plain, _ = train(**base, folder=tmp_path / "plain")
    changed, _ = train(**(base | {name: _CHANGES[name]}), folder=tmp_path / "changed")
    difference = float((flat_parameters(plain) - flat_parameters(changed)).abs().max())
    assert difference > 1e-5


def test_bfloat16_trains_nearly_as_float32(train: Train, tmp_path: Path) -> None:
    _, plain = train(steps=3, folder=tmp_path / "plain")
    _, low = train(steps=3, precision="bfloat16", folder=tmp_path / "low")
    assert [r.loss for r in low] == pytest.approx([r.loss for r in plain], rel=0.02)
    assert [r.loss for r in low] != [r.loss for r in plain]


def test_gradient_checkpointing_changes_no_number(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    plain = execute(RunRecipe(**values, method="logits", output=str(tmp_path / "plain")))
    training = {**tiny_world["training"], "gradient_checkpointing": True}
    saving = execute(RunRecipe(**(values | {"training": training}), method="logits", output=str(tmp_path / "saving")))
    a, b = plain.evaluation.nats_per_token, saving.evaluation.nats_per_token
    assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize(("batch", "micro", "processes", "fix"), [(4, 8, 1, 8), (6, 4, 1, 8), (8, None, 3, 12)])
def test_a_batch_that_is_not_divided_evenly_is_refused_with_the_next_that_is(
    batch: int, micro: int | None, processes: int, fix: int
) -> None:
    settings = TrainingConfig(batch_size=batch, microbatch_size=micro)
    with pytest.raises(ConfigError, match=f"set batch_size {fix},"):
        microbatch_size(settings, processes)
    assert microbatch_size(settings.model_copy(update={"batch_size": fix}), processes) == (micro or fix // processes)
