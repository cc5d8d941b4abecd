"""The same step through TRL's GKDTrainer: forward KL (beta 0) on given answers (lmbda 0).

Same weights, same ids, same labels, same optimizer, learning rate and clipping; float32, no gradient checkpointing.
Everything else is TRL's default. Rows come tokenised from the collator, so no tokenizer has a say in the ids.
Runs in the environment of `make bench-peers`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer  # type: ignore[import-not-found]

from bench.measure import Finished, Probe
from bench.pair import answer_mask, digest, student_of, teacher_of, token_ids
from bench.settings import LEARNING_RATE, Run, Size


def same_as_here(run: Run, folder: str, *, steps: int) -> dict[str, Any]:
    """Return the settings of a trainer of TRL that make its step the one that is measured here."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": run.shape.rows,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": run.device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def run_steps(trainer: Any, probe: Probe) -> None:
    """Train until the probe has its steps."""
    probe.facts["optimizer"] = str(trainer.args.optim)
    probe.start()
    with suppress(Finished):
        trainer.train()


def trl_gkd(run: Run, probe: Probe) -> None:
    """Steps of GKDTrainer, from log line to log line."""
    size = run.shape
    teacher, student = teacher_of(size), student_of(size)
    probe.facts["digest"] = [digest(teacher, token_ids(size)), digest(student, token_ids(size))]
    steps = run.warmup + run.steps + 1
    with tempfile.TemporaryDirectory() as folder:
        arguments = GKDConfig(
            lmbda=0.0,
            beta=0.0,
            train_sampling_strategy="sequential",
            **same_as_here(run, folder, steps=steps),
        )
        trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=arguments,
            data_collator=Rows(size),
            # the batch again and again: every step reads the same rows in the same order
            train_dataset=Dataset.from_dict({"row": list(range(size.rows)) * steps}),
            processing_class=tokenizer_of(size),
            callbacks=[Ticks(probe)],
        )
        run_steps(trainer, probe)


class Rows:
    """Row numbers -> the batch that GKDTrainer reads."""

    def __init__(self, size: Size) -> None:
        self.ids, self.answers = token_ids(size), answer_mask(size)
        self.prompt_length = size.row_length // 2

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels (B, L); prompts and prompt_attention_mask (B, L / 2)."""
        chosen = torch.tensor([item["row"] for item in rows])
        ids = self.ids[chosen]
        prompts = ids[:, : self.prompt_length]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": ids.masked_fill(~self.answers[chosen], -100),
            "prompts": prompts,
            "prompt_attention_mask": torch.ones_like(prompts),
        }


class Ticks(TrainerCallback):
    """Tells the probe of every step when its loss is logged, as our trainer does."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step has ended."""
        if "loss" in kwargs["logs"]:
            self.probe.tick(float(kwargs["logs"]["loss"]))


def tokenizer_of(size: Size) -> PreTrainedTokenizerFast:
    """The id n of "wn"."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(3, size.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
