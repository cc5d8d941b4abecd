"""`dl.Trainer` is transformers' Trainer with the loss, the row order and the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainingArguments,
)

import distillab as dl
from distillab.errors import ConfigError, DataError, TeacherError, TokenizerMismatch
from distillab.files import read_json_lines

STEPS = 4


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Those that a run of the tiny world has."""
    usual = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "seed": 0,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(folder), **{**usual, **changes})


@pytest.fixture
def world(tiny_world: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    student, teacher = tiny_world["student"]["path"], tiny_world["teacher"]["path"]
    return {
        "model": AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32),
        "processing_class": AutoTokenizer.from_pretrained(student),
        "teacher": AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32),
        "train_dataset": Dataset.from_list(rows_of(tiny_world["data"]["train"]["path"])),
        "eval_dataset": rows_of(tiny_world["data"]["held_out"]["path"])[:12],
        "args": arguments(tmp_path / "trained"),
        "max_tokens": 96,
    }


def student_again(tiny_world: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_world["student"]["path"], dtype=torch.float32)


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def weights(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_it_trains_as_a_run_does(world: dict[str, Any], tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """Every figure of every step, the learning curve and the weights, to the last digit."""
    run = dl.distil(
        student=tiny_world["student"]["path"],
        teacher=tiny_world["teacher"]["path"],
        train=tiny_world["data"]["train"]["path"],
        held_out=world["eval_dataset"],
        settings={f"training.{key}": value for key, value in tiny_world["training"].items()}
        | {"data.max_tokens": 96, "evaluation.generate_rows": 0, "evaluation.max_new_tokens": 8},
        output=tmp_path / "run",
    )
    trainer = dl.Trainer(**world)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    steps = [line for line in run.metrics if "terms" in line]
    logged = [line for line in trainer.state.log_history if "grad_norm" in line]
    assert len(steps) == len(logged) == STEPS
    for step, log in zip(steps, logged, strict=True):
        assert [log[name] for name in ("loss", "grad_norm", "learning_rate")] == [
            step[name] for name in ("loss", "grad_norm", "learning_rate")
        ]
        assert {name: log[name] for name in step["terms"]} == step["terms"]
    assert torch.equal(weights(trainer.model), weights(run.student))
    curve = [
        line["held_out_nats_per_token"] for line in read_json_lines(run.folder / "metrics.jsonl") if "terms" not in line
    ]
    assert [before["eval_nats_per_token"], after["eval_nats_per_token"]] == [curve[0], curve[-1]]
    assert after["eval_nats_per_token"] == run.evaluation.nats_per_token
    # the divergence fades out, from 1 at the first step to 0 at the last
    assert before["eval_loss"] == pytest.approx(before["eval_cross_entropy"] + before["eval_token_divergence"])
    assert after["eval_loss"] == pytest.approx(after["eval_cross_entropy"])
    assert after["eval_cross_entropy"] == pytest.approx(after["eval_nats_per_token"], rel=1e-5)


def test_accumulated_microbatches_are_one_batch(
    world: dict[str, Any], tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    whole = dl.Trainer(**world)
    whole.train()
    small = arguments(tmp_path / "small", per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=2)
    split = dl.Trainer(**{**world, "model": student_again(tiny_world), "args": small})
    split.train()
    means = [sum(losses(whole)[n : n + 2]) / 2 for n in (0, 2)]
    assert losses(split) == pytest.approx(means, rel=1e-5)
    logged = [line for line in split.state.log_history if "loss" in line]
    # two of four steps, at which the divergence has the weights 1 and 2/3
    assert logged[0]["loss"] == pytest.approx(
        logged[0]["cross_entropy"] + 5 / 6 * logged[0]["token_divergence"], rel=1e-4
    )


def test_it_resumes_from_its_checkpoints_with_balanced_weights_and_projectors(
    world: dict[str, Any], tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    terms = [dl.terms.CrossEntropy(), dl.terms.HiddenStates(weight="balanced", projector="linear")]
    straight = dl.Trainer(**{**world, "terms": terms, "args": arguments(tmp_path / "a")})
    straight.train()
    saving = arguments(tmp_path / "b", save_strategy="steps", save_steps=2, save_total_limit=1)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    first = dl.Trainer(
        **{**world, "model": student_again(tiny_world), "terms": terms, "args": saving, "callbacks": [Stop()]}
    )
    first.train()
    again = dl.Trainer(**{**world, "model": student_again(tiny_world), "terms": terms, "args": saving})
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert losses(again)[2:] == losses(straight)[2:]
    assert torch.equal(weights(again.model), weights(straight.model))
    assert [path.name for path in sorted((tmp_path / "b").glob("checkpoint-*"))] == ["checkpoint-4"]
    again.save_model(str(tmp_path / "saved"))
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["unexpected_keys"]  # the projector is beside the student, not in it
    assert (tmp_path / "b" / "projectors.safetensors").is_file()


def test_epochs_are_passes_over_the_rows(world: dict[str, Any], tmp_path: Path) -> None:
    args = arguments(
        tmp_path / "e",
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=20,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_nats_per_token",
    )
    trainer = dl.Trainer(**{**world, "args": args, "callbacks": [EarlyStoppingCallback(3)]})
    trainer.train()
    evaluated = [line["epoch"] for line in trainer.state.log_history if "eval_loss" in line]
    assert trainer.state.global_step == 6
    assert evaluated == [1.0, 2.0]
    assert [line["epoch"] for line in trainer.state.log_history if "loss" in line] == [1.0, 2.0]
    assert trainer.state.best_model_checkpoint is not None


def test_several_held_out_sets_have_their_names(world: dict[str, Any]) -> None:
    trainer = dl.Trainer(**{**world, "eval_dataset": {"one": world["eval_dataset"], "two": world["eval_dataset"][:3]}})
    values = trainer.evaluate()
    assert values["eval_one_nats_per_token"] != values["eval_two_nats_per_token"]
    assert trainer.evaluate(world["eval_dataset"][:3])["eval_loss"] == values["eval_two_loss"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_lora_learns_the_adapter_alone(world: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = weights(world["model"])
    adapted = get_peft_model(world["model"], LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainer = dl.Trainer(**{**world, "model": adapted})
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert torch.equal(weights(adapted.unload()), base)
    loaded = PeftModel.from_pretrained(adapted.unload(), tmp_path / "adapter")
    assert any(bool(p.abs().sum() > 0) for name, p in loaded.named_parameters() if "lora_B" in name)


def test_two_tokenizers_are_aligned(world: dict[str, Any], stranger: str) -> None:
    trainer = dl.Trainer(**{**world, "teacher": stranger, "terms": [dl.terms.VocabularyProjection()]})
    trainer.train()
    assert "vocabulary_projection" in trainer.state.log_history[0]
    assert trainer.evaluate()["eval_vocabulary_projection"] > 0
    with pytest.raises(TokenizerMismatch, match="not valid for this pair"):
        dl.Trainer(**{**world, "teacher": stranger})


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"teacher": None}, TeacherError, "needs one"),
        ({"args": {"label_smoothing_factor": 0.1}}, ConfigError, "label_smoothing_factor"),
        ({"args": {"train_sampling_strategy": "sequential"}}, ConfigError, "train_sampling_strategy"),
        ({"train_dataset": [{"left": "a"}]}, DataError, "columns"),
        ({"eval_dataset": [{"prompt": "a", "answer": "b " * 200}]}, DataError, "fits whole"),
        ({"eval_dataset": [{"text": "a b c d"}]}, DataError, "different kinds"),
        ({"processing_class": "a path"}, ConfigError, "builtins.str"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(world: dict[str, Any], tmp_path: Path, wrong: Any, error: Any, text: str) -> None:
    if "args" in wrong:
        wrong = {"args": arguments(tmp_path / "x", **wrong["args"])}
    with pytest.raises(error) as raised:
        dl.Trainer(**{**world, **wrong})
    assert text in str(raised.value)


def test_there_are_no_predictions(world: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no predictions"):
        dl.Trainer(**world).predict(world["eval_dataset"])
    with pytest.raises(ConfigError, match="no held-out rows"):
        dl.Trainer(**{**world, "eval_dataset": None}).evaluate()
