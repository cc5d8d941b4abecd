"""Trainers of TRL, really run with tiny models. What they trained on, logged and computed is written to a folder.

    bench/.venv-peers/bin/python -m bench.doctor.trl_runs OUT MATERIALS [NAME …]

OUT/NAME/batches.pt: the first inputs of compute_loss, plain tensors; OUT/NAME/tokenizer: with which they were made;
OUT/NAME/trainer_state.json: the trainer's own log; OUT/NAME/loss.json: what the check of losses says of its loss.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

from bench.doctor.trl_distilling import DISTILLING
from bench.doctor.trl_settings import Kept, plain
from bench.doctor.trl_worlds import CHATML, World, tiny

_ENOUGH = 4
# enough to see what a trainer is given; logits of 32,000 to 50,000 tokens are slow on a CPU
_FEW: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}


def completion_mask_ignored(world: World) -> SFTTrainer:
    """A tokenised data set with a completion_mask, which SFTTrainer does not read unless it is told to."""
    tokenizer = world.tokenizer("tinyllama-1.1b", "<unk>")
    rows = []
    for row in world.sums(24):
        front = tokenizer(row["prompt"]).input_ids
        back = [*tokenizer(row["completion"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append({"input_ids": front + back, "completion_mask": [0] * len(front) + [1] * len(back)})
    return _sft(world, "tinyllama-1.1b", "<unk>", Dataset.from_list(rows))


def one_text_column(world: World) -> SFTTrainer:
    """Prompt and answer in one text: all of it is learned."""
    rows = [{"text": row["prompt"] + row["completion"]} for row in world.sums(24)]
    return _sft(world, "mistral-7b-v0.1", "<unk>", Dataset.from_list(rows))


def begin_token_twice(world: World) -> SFTTrainer:
    """The text was made by a template that begins with <s>."""
    rows = [{"text": f"<s>[INST] {row['prompt']} [/INST]{row['completion']}"} for row in world.sums(24)]
    return _sft(world, "tinyllama-1.1b", "<unk>", Dataset.from_list(rows))


def collator_of_transformers(world: World) -> SFTTrainer:
    """transformers' collator in SFTTrainer, pad = eos: it masks every label that is the padding's id."""
    tokenizer = world.tokenizer("gpt2", "<|endoftext|>")
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [
        {"input_ids": tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token).input_ids}
        for row in world.sums(24)
    ]
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=collate,
    )


def assistant_turns(world: World) -> SFTTrainer:
    """Chats of three turns, assistant_only_loss."""
    tokenizer = world.chatml()
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW, assistant_only_loss=True, max_length=2048),
        train_dataset=world.chats(16, turns=3),
        processing_class=tokenizer,
    )


def markers_nobody_added(world: World) -> SFTTrainer:
    """ChatML's template on a base tokenizer that lacks its tokens."""
    tokenizer = world.tokenizer("tinyllama-1.1b", "<unk>", CHATML)
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW, assistant_only_loss=True),
        train_dataset=world.chats(24),
        processing_class=tokenizer,
    )


def another_familys_wording(world: World) -> SFTTrainer:
    """formatting_func writes [INST] … [/INST] for a tokenizer with ChatML's template."""
    tokenizer = world.chatml()
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW),
        train_dataset=world.sums(24).rename_columns({"prompt": "question", "completion": "reply"}),
        formatting_func=lambda row: f"[INST] {row['question']} [/INST]{row['reply']}",
        processing_class=tokenizer,
    )


def nothing_scored(world: World) -> SFTTrainer:
    """skip_prepare_dataset, and labels that are all -100: a loss of 0.0."""
    tokenizer = world.tokenizer("tok512", "<unk>")
    rows = [tokenizer(row["text"]).input_ids[:64] for row in world.stories(64)]
    data = Dataset.from_list([{"input_ids": ids, "labels": [-100] * len(ids)} for ids in rows])
    return SFTTrainer(
        model=tiny(tokenizer, hidden=32),
        args=plain(SFTConfig, max_steps=30, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=data,
        processing_class=tokenizer,
    )


def lora_run(world: World) -> SFTTrainer:
    """LoRA on the real small model."""
    from peft import LoraConfig

    tokenizer = world.tokenizer("tok512", "<unk>")
    return SFTTrainer(
        model=world.teacher(),
        args=plain(SFTConfig, max_steps=100, learning_rate=1e-3, eval_strategy="steps", eval_steps=20, max_length=96),
        train_dataset=world.stories(600),
        eval_dataset=world.stories(40, start=1500),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )


def _sft(world: World, name: str, pad: str, rows: Dataset, **settings: Any) -> SFTTrainer:
    tokenizer = world.tokenizer(name, pad)
    return SFTTrainer(
        model=tiny(tokenizer),
        args=plain(SFTConfig, **_FEW, **settings),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def _run(world: World, *, rows: int = 1200, max_steps: int = 120, **settings: Any) -> SFTTrainer:
    tokenizer = world.tokenizer("tok512", "<unk>")
    return SFTTrainer(
        model=tiny(tokenizer, hidden=64, layers=2),
        args=plain(SFTConfig, max_steps=max_steps, eval_strategy="steps", eval_steps=20, max_length=96, **settings),
        train_dataset=world.stories(rows),
        eval_dataset=world.stories(40, start=1500),
        processing_class=tokenizer,
    )


# fmt: off
SFT: dict[str, Callable[[World], Any]] = {
    # prompt and completion, as the documentation has it.
    "completion": lambda world: _sft(world, "tinyllama-1.1b", "<unk>", world.sums(24)),
    "completion_mask_ignored": completion_mask_ignored,
    "one_text_column": one_text_column,
    # Stories, all of them learned.
    "plain_texts": lambda world: _sft(world, "gpt2", "<|pad|>", world.stories(24)),
    # max_length is shorter than most rows; nothing is said.
    "cut_at_the_length": lambda world: _sft(world, "tinyllama-1.1b", "<unk>", world.sums(32), max_length=128),
    "begin_token_twice": begin_token_twice,
    # packing_strategy "wrapped": rows of equal length, whatever stands in them.
    "wrapped_packing": lambda world: _sft(world, "tinyllama-1.1b", "<unk>", world.sums(48), packing=True,
        packing_strategy="wrapped", max_length=256),
    # packing=True: whole samples, with position ids.
    "best_fit_packing": lambda world: _sft(world, "tinyllama-1.1b", "<unk>", world.sums(48), packing=True,
        max_length=512),
    # Samples of a batch in one row, with position ids.
    "padding_free": lambda world: _sft(world, "mistral-7b-v0.1", "<unk>", world.sums(24), padding_free=True,
        max_length=None),
    "collator_of_transformers": collator_of_transformers,
    "assistant_turns": assistant_turns,
    "markers_nobody_added": markers_nobody_added,
    "another_familys_wording": another_familys_wording,
    "nothing_scored": nothing_scored,
    # The rows are tokenised with the teacher's tokenizer (Mistral); the student is TinyLlama.
    "tokens_of_the_teacher": lambda world: _sft(world, "mistral-7b-v0.1", "<unk>", world.sums(32)),
    # A short run with a cosine, an evaluation every 25 steps.
    "good_run": lambda world: _run(world, learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=10),
    "lora_run": lora_run,
    # Microbatches of 2, four to a step: SFTTrainer counts them rightly.
    "accumulated_run": lambda world: _run(world, learning_rate=3e-3, per_device_train_batch_size=2,
        gradient_accumulation_steps=4),
    # A learning rate of 1e10: NaN from the second step on, printed as 0.0.
    "nan_run": lambda world: _run(world, learning_rate=1e10, max_steps=40),
    # 0.5 where 3e-3 is right.
    "rate_far_too_high": lambda world: _run(world, learning_rate=0.5, lr_scheduler_type="constant"),
    # A learning rate that a configuration file has rounded to 0.
    "rate_zero": lambda world: _run(world, learning_rate=0.0),
    # 3e-6 for a student that begins with random weights.
    "rate_far_too_low": lambda world: _run(world, learning_rate=3e-6, lr_scheduler_type="constant"),
    # warmup_steps of another run that was much longer.
    "warmup_longer_than_the_run": lambda world: _run(world, learning_rate=3e-3, warmup_steps=5000),
    # 24 rows, read again and again.
    "few_rows_many_epochs": lambda world: _run(world, learning_rate=3e-3, rows=24, max_steps=300,
        lr_scheduler_type="constant"),
}
# fmt: on


def main(arguments: list[str]) -> int:
    """Run the named trainers, or all."""
    out, world = Path(arguments[0]), World(Path(arguments[1]))
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    makers = {**SFT, **DISTILLING}
    for name in arguments[2:] or makers:
        began = time.perf_counter()
        torch.manual_seed(0)
        made = makers[name](world)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(made, "findings"):
            (folder / "loss.json").write_text(made.model_dump_json(), encoding="utf-8")
        else:
            kept = Kept(made, _ENOUGH)
            made.train()
            torch.save(kept.batches, folder / "batches.pt")
            made.processing_class.save_pretrained(folder / "tokenizer")
            made.state.save_to_json(str(folder / "trainer_state.json"))
        print(f"{name} {time.perf_counter() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
