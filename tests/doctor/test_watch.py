"""`watch` on transformers' own Trainer: what it trains is not changed, and faults end it before they train."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.doctor.batch_faults import prompt_in_answer_out, rolled
from tests.doctor.batch_samples import Batch, World, WorldOf
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from distillab.doctor import Watch, watch
from distillab.doctor.watching import check_model_tokenizer
from distillab.errors import ConfigError, FaultFound
from distillab.pairing.loading import load_tokenizer

STEPS = 6
PAIR = ("tinyllama-1.1b", "mistral-7b-v0.1")


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


def test_a_long_log_is_examined_at_growing_intervals_and_at_the_first_nan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Watch(world.tokenizer, stop=False)
    examined: list[int] = []
    examine = Watch.examine_log

    def counted(self: Watch, **settings: Any) -> None:
        examined.append(step)
        examine(self, **settings)

    monkeypatch.setattr(Watch, "examine_log", counted)
    for step in range(1, 201):
        watching.log(step, {"loss": 3.0 - step / 100, "grad_norm": 1.0 + step % 3})
    assert examined == [10, 20, 30, 40, 50, 63, 79, 99, 124, 155, 194]
    for step in (201, 202):
        watching.log(step, {"loss": math.nan})
    assert examined[-1] == 201 and "loss-not-finite" in {one.id for one in watching.investigation.findings}


def test_the_tokenizer_is_compared_with_that_of_the_models_folder(materials: Path, tmp_path: Path) -> None:
    """32,000 ids on both sides: the investigation's pair."""
    own, other = (load_tokenizer(str(materials / "tokenizers" / name)).tokenizer for name in PAIR)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(own), **shape)).save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    assert "no tokenizer can be loaded" in str(check_model_tokenizer(model, other).skipped)
    own.save_pretrained(tmp_path)
    (finding,) = check_model_tokenizer(model, other).findings
    assert (finding.id, finding.severity) == ("ids-of-another-tokenizer", "error") and "270" in finding.evidence[0]
    with pytest.raises(FaultFound, match="ids-of-another-tokenizer"):
        Watch(other).model(model)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "<unk>"})
    found = check_model_tokenizer(model, own)
    assert found.skipped is None and not found.findings


def test_what_it_needs(world: World, tmp_path: Path) -> None:
    trainer = _trainer(world, world.good(), tmp_path)
    trainer.processing_class = None
    with pytest.raises(ConfigError, match=r"watch\(trainer, tokenizer="):
        watch(trainer)
    with pytest.raises(ConfigError, match="at least 1"):
        watch(trainer, tokenizer=world.tokenizer, batches=0)
