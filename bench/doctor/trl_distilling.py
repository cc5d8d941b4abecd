"""GKD and GOLD of TRL: their batches, their runs, and their `compute_loss` as a function of logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput
from trl.experimental.gkd import GKDConfig, GKDTrainer  # type: ignore[import-not-found]
from trl.experimental.gold import GOLDConfig, GOLDTrainer  # type: ignore[import-not-found]
from trl.experimental.gold.gold_trainer import ULDLoss  # type: ignore[import-not-found]

from bench.doctor.trl_settings import plain
from bench.doctor.trl_worlds import LLAMA, PLAIN, World, tiny
from distillab.doctor import audit_loss
from distillab.records import CheckResult


def gkd_head_of_the_prompt_cut(world: World) -> Any:
    """Rows longer than max_length lose their beginning, the begin token with it."""
    tokenizer = world.tokenizer("tinyllama-1.1b", "<unk>", LLAMA)
    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["output"][:60]}]}
        for row in world.rows("tasks", 24)
    ]
    return GKDTrainer(
        model=tiny(tokenizer),
        teacher_model=tiny(tokenizer),
        args=plain(GKDConfig, **_FEW, lmbda=0.0, max_length=64),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def gkd_accumulated(world: World) -> Any:
    """Microbatches of 2, four to a step: GKD counts them rightly on one process."""
    settings = {**_RUN, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    return _distil(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=0.0, **settings))


def gkd_nothing_scored(world: World) -> Any:
    """Labels that are all -100: NaN, printed as 0.0."""
    trainer = _distil(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=0.0, **{**_RUN, "eval_strategy": "no"}))
    collate = trainer.data_collator

    def masked(rows: Any) -> Any:
        batch = collate(rows)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        return batch

    trainer.data_collator = masked
    return trainer


def gold_accumulated(world: World) -> Any:
    """GOLD divides by the steps of accumulation once too often."""
    settings = {**_RUN, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    return _distil(world, GOLDTrainer, plain(GOLDConfig, lmbda=0.0, beta=0.0, temperature=1.0, **settings))


def gold_temperature_zero(world: World) -> Any:
    """temperature=0: NaN, printed as 0.0."""
    settings = {**_RUN, "eval_strategy": "no", "max_steps": 40}
    return _distil(world, GOLDTrainer, plain(GOLDConfig, lmbda=0.0, beta=0.0, temperature=0.0, **settings))


def gkd_loss(world: World, *, beta: float) -> CheckResult:
    """compute_loss of a GKDTrainer, as a function of logits."""
    trainer = _chats(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=beta))
    function = _as_function(trainer)
    return audit_loss(lambda *tensors: function(*tensors), takes=_TAKES, given="sequences")


def gkd_loss_temperature(world: World) -> CheckResult:
    """The same with GKDConfig's temperature, which never reaches the loss."""
    trainer = _chats(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=0.5))
    return audit_loss(_as_function(trainer), takes=_TAKES, given="sequences", temperature="temperature")


def gold_loss(world: World) -> CheckResult:
    """compute_loss of a GOLDTrainer with its temperature."""
    trainer = _chats(world, GOLDTrainer, plain(GOLDConfig, lmbda=0.0, beta=0.5))
    return audit_loss(_as_function(trainer), takes=_TAKES, given="sequences", temperature="temperature")


def gold_uld_loss(world: World, *, merge: str) -> CheckResult:
    """GOLD's ULD between two like tokenizers; "observed" is its default, "bayesian" the one that shifts."""
    tokenizer = world.chatml()
    config = plain(
        GOLDConfig,
        use_uld_loss=True,
        use_extended_uld=False,
        uld_token_merge_strategy=merge,
        uld_crossentropy_weight=0.0,
        uld_skip_student_eos=False,
        uld_skip_teacher_eos=False,
        teacher_tokenizer_name_or_path="unused",
    )
    uld = ULDLoss(config, student_tokenizer=tokenizer, teacher_tokenizer=tokenizer, device=torch.device("cpu"))

    def function(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        ids = labels.clamp(min=0)
        return uld(
            student_logits=student,
            teacher_logits=teacher,
            student_labels=labels,
            teacher_labels=labels,
            student_input_ids=ids,
            teacher_input_ids=ids,
        )

    return audit_loss(function, takes=("student_logits", "teacher_logits", "labels"), given="sequences")


_TAKES = ("student_logits", "teacher_logits", "labels", "attention_mask")
_FEW: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}
_RUN: dict[str, Any] = {
    "max_steps": 120,
    "learning_rate": 3e-3,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "max_length": 160,
}


def _chats(world: World, trainer: Any, arguments: Any) -> Any:
    tokenizer = world.chatml()
    return trainer(
        model=tiny(tokenizer),
        teacher_model=tiny(tokenizer),
        args=arguments,
        train_dataset=world.chats(24),
        processing_class=tokenizer,
    )


def _distil(world: World, trainer: Any, arguments: Any) -> Any:
    gold = trainer is GOLDTrainer
    tokenizer = world.byte_level() if gold else world.tokenizer("tok512", "<unk>", PLAIN)
    teacher = tiny(tokenizer, hidden=64, layers=2) if gold else world.teacher()
    if gold:
        # random weights that are sure of something: what they say depends on what they read
        with torch.no_grad():
            teacher.lm_head.weight *= 20
    return trainer(
        model=tiny(tokenizer, hidden=64, layers=2),
        teacher_model=teacher,
        args=arguments,
        train_dataset=world.tales(1200),
        eval_dataset=world.tales(40, start=1500),
        processing_class=tokenizer,
    )


def _as_function(trainer: Any) -> Callable[..., Tensor]:
    def function(
        student: Tensor, teacher: Tensor, labels: Tensor, attention_mask: Tensor, temperature: float | None = None
    ) -> Tensor:
        if temperature is not None:
            trainer.temperature = trainer.args.temperature = temperature
        trainer.teacher_model = _GivenLogits(teacher)
        model = _GivenLogits(student)
        inputs = {"input_ids": labels.clamp(min=0), "attention_mask": attention_mask, "labels": labels}
        loss: Tensor = trainer.compute_loss(model, inputs)
        return loss

    return function


class _GivenLogits(nn.Module):
    """A model whose logits are given: `compute_loss` of a trainer becomes a function of them."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.config = logits, None  # trainers ask for it

    def forward(self, **inputs: object) -> CausalLMOutput:
        """The logits that were given."""
        return CausalLMOutput(logits=self.logits)


# fmt: off
DISTILLING: dict[str, Callable[[World], Any]] = {
    # GKDTrainer on chats, as its documentation has it.
    "gkd_chats": lambda world: _chats(world, GKDTrainer,
        plain(GKDConfig, **_FEW, lmbda=0.0, beta=0.0, max_length=1024)),
    # GOLDTrainer on chats with one tokenizer.
    "gold_chats": lambda world: _chats(world, GOLDTrainer,
        plain(GOLDConfig, **_FEW, lmbda=0.0, beta=0.0, max_length=1024)),
    "gkd_head_of_the_prompt_cut": gkd_head_of_the_prompt_cut,
    # A short run from the real small teacher.
    "gkd_run": lambda world: _distil(world, GKDTrainer, plain(GKDConfig, lmbda=0.0, beta=0.0, **_RUN)),
    "gkd_accumulated": gkd_accumulated,
    "gkd_nothing_scored": gkd_nothing_scored,
    "gold_accumulated": gold_accumulated,
    "gold_temperature_zero": gold_temperature_zero,
    "gkd_loss_forward": functools.partial(gkd_loss, beta=0.0),
    "gkd_loss_jensen_shannon": functools.partial(gkd_loss, beta=0.5),
    "gkd_loss_reverse": functools.partial(gkd_loss, beta=1.0),
    "gkd_loss_temperature": gkd_loss_temperature,
    "gold_loss": gold_loss,
    "gold_uld_observed": functools.partial(gold_uld_loss, merge="observed"),
    "gold_uld_bayesian": functools.partial(gold_uld_loss, merge="bayesian"),
}
# fmt: on
