"""`watch` on transformers' own Trainer: what it trains is not changed, and faults end it before they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.doctor.batch_faults import prompt_in_answer_out, rolled
from tests.doctor.batch_samples import Batch, World, WorldOf
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from distillab.doctor import Watch, watch
from distillab.errors import ConfigError, FaultFound

STEPS = 6


@pytest.fixture
def world(world_of: WorldOf) -> World:
    return world_of("tok512")


def _trainer(world: World, batch: Batch, folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(world.tokenizer), **shape))
    rows = [{name: values[place] for name, values in batch.items()} for place in range(len(batch["labels"]))]
    settings = {"max_steps": STEPS, "logging_steps": 1, "learning_rate": 1e-2, **changes}
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, use_cpu=True, report_to=[], save_strategy="no", **settings
    )
    return Trainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=default_data_collator,
        processing_class=world.tokenizer,
    )


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_what_is_trained_is_not_changed_and_nothing_is_found(world: World, tmp_path: Path) -> None:
    trained = []
    for name in ("alone", "watched"):
        trainer = _trainer(world, world.good(), tmp_path / name)
        watching = watch(trainer, batches=2) if name == "watched" else None
        trainer.train()
        trained.append(_weights(trainer))
    assert torch.equal(*trained)
    assert watching is not None
    found = watching.investigation
    assert not [one for one in found.findings if one.severity == "error"], found.findings
    assert {"labels", "scored tokens", "run-finite"} <= {one.check for one in found.checks}
    assert "8 rows" in " ".join(one.scope for one in found.checks)


def test_an_error_ends_the_training_before_the_first_step(world: World, tmp_path: Path) -> None:
    """The investigation's own fault."""
    trainer = _trainer(world, prompt_in_answer_out(world), tmp_path)
    before = _weights(trainer).clone()
    watch(trainer)
    with pytest.raises(FaultFound, match=r"(?s)answer-at-prompt-positions.*distillab doctor explain"):
        trainer.train()
    assert torch.equal(before, _weights(trainer))


def test_without_stop_it_is_printed_once(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = _trainer(world, rolled(world, 1), tmp_path)
    watching = watch(trainer, stop=False, batches=2)
    trainer.train()
    assert trainer.state.global_step == STEPS
    assert capsys.readouterr().out.count("(labels-shifted-twice)") == 1
    assert "labels-shifted-twice" in {one.id for one in watching.investigation.findings}


def test_a_loss_that_becomes_nan_ends_the_training(world: World, tmp_path: Path) -> None:
    trainer = _trainer(
        world, world.good(), tmp_path, max_steps=40, learning_rate=1e6, max_grad_norm=0.0, logging_nan_inf_filter=False
    )
    watch(trainer, every=2)
    with torch.no_grad():
        trainer.model.model.norm.weight.mul_(1e38)
    with pytest.raises(FaultFound, match="loss-not-finite"):
        trainer.train()
    assert trainer.state.global_step < 10


def test_a_loop_of_ones_own_calls_it(world: World) -> None:
    watching = Watch(world.tokenizer, every=1, vocabulary=len(world.tokenizer))
    watching.batch(world.good())
    watching.log(1, {"loss": 6.2, "learning_rate": 0.0})
    watching.log(2, {"loss": 6.2, "learning_rate": 0.0})
    with pytest.raises(FaultFound, match="learning-rate-zero"):
        watching.log(3, {"loss": 6.2, "learning_rate": 0.0})


def test_what_it_needs(world: World, tmp_path: Path) -> None:
    trainer = _trainer(world, world.good(), tmp_path)
    trainer.processing_class = None
    with pytest.raises(ConfigError, match=r"watch\(trainer, tokenizer="):
        watch(trainer)
    with pytest.raises(ConfigError, match="at least 1"):
        watch(trainer, tokenizer=world.tokenizer, batches=0)
