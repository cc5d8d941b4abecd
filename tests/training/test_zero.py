"""What DeepSpeed cannot train here is refused before anything is trained; `prove_zero` trains with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.config.training import TrainingConfig
from distillab.errors import ConfigError
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.training.arguments import training_arguments
from distillab.training.zero import require_resumable, require_zero, zero_settings
from tests.training.conftest import VOCABULARY, tiny_llama

PLAIN = (CrossEntropyConfig(),)
PROJECTED = (HiddenStatesConfig(projector="linear"),)
SEVERAL = (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5))


def _require(terms: tuple[TermConfig, ...], *, writes: bool = False, **settings: object) -> None:
    student = tiny_llama(0)
    shape = model_shape(student)
    objective = build_objective(terms, shared_width=VOCABULARY, student=shape, teacher=shape)
    require_zero(TrainingConfig.model_validate(settings), student, objective, writes=writes)


def test_without_deepspeed_nothing_changes(tmp_path: Path) -> None:
    _require(PROJECTED, writes=True)
    assert training_arguments(TrainingConfig(device="cpu"), folder=tmp_path, seed=0).deepspeed is None
    assert zero_settings(3) is not None and zero_settings(None) is None


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(ConfigError, match=r"(?s)not installed.*pip install \"distillab\[deepspeed\]\""):
        _require(PLAIN, deepspeed=2)


@pytest.mark.parametrize(
    ("terms", "settings", "fact"),
    [
        (PLAIN, {"deepspeed": 2, "precision": "bfloat16"}, "bfloat16"),
        (PROJECTED, {"deepspeed": 3}, "parameters that learn"),
        (SEVERAL, {"deepspeed": 2}, "shares of the gradient"),
        (PLAIN, {"deepspeed": 2, "writes": True}, "writes answers"),
    ],
)
def test_what_it_cannot_train_is_refused(
    monkeypatch: pytest.MonkeyPatch, terms: tuple[TermConfig, ...], settings: dict[str, object], fact: str
) -> None:
    monkeypatch.setattr("distillab.training.zero.find_spec", lambda name: SimpleNamespace(name=name))
    with pytest.raises(ConfigError, match="over processes, and there is one"):
        _require(PLAIN, deepspeed=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    writes = bool(settings.pop("writes", False))
    with pytest.raises(ConfigError, match=fact):
        _require(terms, writes=writes, **settings)
    _require(PROJECTED, deepspeed=2)
    _require(SEVERAL, deepspeed=3, gradient_shares_every=0)


def test_a_checkpoint_of_another_stage_or_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, two = TrainingConfig(), TrainingConfig(deepspeed=2)
    require_resumable(tmp_path, plain)
    with pytest.raises(ConfigError, match=r"(?s)there: no DeepSpeed.*now: training.deepspeed: 2, 1 proc"):
        require_resumable(tmp_path, two)
    parts = tmp_path / "global_step4"
    parts.mkdir()
    for name in ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"):
        (parts / name).touch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_resumable(tmp_path, two)
    for settings in (plain, TrainingConfig(deepspeed=3)):
        with pytest.raises(ConfigError, match=r"there: training\.deepspeed: 2, 2 processes"):
            require_resumable(tmp_path, settings)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="3 processes"):
        require_resumable(tmp_path, two)
