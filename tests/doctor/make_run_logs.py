"""Makes the logs in tests/doctor/run_logs with real trainers: a tiny Llama on a text with known entropy. Seconds each.

    python -m tests.doctor.make_run_logs transformers     trainer_state.json files, by transformers' Trainer (and peft)
    python -m tests.doctor.make_run_logs trl               logs by TRL; runs in the environment of the peers

The text: 40 tokens, each followed by one of four, of unequal probability; a row is 24 tokens.
"""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

HERE = Path(__file__).resolve().parent / "run_logs"
VOCABULARY = 64
LENGTH = 24


def rows(n: int, seed: int) -> list[list[int]]:
    table = torch.Generator().manual_seed(7)
    followers = torch.randint(3, 43, (VOCABULARY, 4), generator=table)
    chances = torch.tensor([0.6, 0.2, 0.15, 0.05])
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        row = [1, int(torch.randint(3, 43, (1,), generator=draw))]
        while len(row) < LENGTH:
            row.append(int(followers[row[-1], int(torch.multinomial(chances, 1, generator=draw))]))
        found.append(row)
    return found


def data(n: int, seed: int, *, masked_from: int | None = None) -> Dataset:
    ids = rows(n, seed)
    labels = [row if masked_from is None or place < masked_from else [-100] * LENGTH for place, row in enumerate(ids)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * LENGTH] * n, "labels": labels})


def student(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def arguments(folder: str, **changed: Any) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": 120,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 20,
        "eval_on_start": True,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    } | changed


def state(
    name: str,
    *,
    model: Any = None,
    train: Dataset | None = None,
    loss: Callable[..., Any] | None = None,
    **changed: Any,
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            model=student() if model is None else model,
            args=TrainingArguments(**arguments(folder, **changed)),
            train_dataset=data(2000, 1) if train is None else train,
            eval_dataset=data(64, 2),
            compute_loss_func=loss,
        )
        trainer.train()
        trainer.save_state()
        shutil.copy(Path(folder) / "trainer_state.json", HERE / f"{name}.json")


def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Ignores what it should divide by, as many losses do."""
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())


def probabilities_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Takes the softmax twice."""
    logits = outputs.logits[:, :-1].flatten(0, 1).softmax(dim=-1)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())


def unshifted_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Asks every position for the token that it has read."""
    return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())


def lora(base: LlamaForCausalLM) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"]))


def pretrained() -> LlamaForCausalLM:
    model = student()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(**arguments(folder, eval_strategy="no", eval_on_start=False, max_steps=150)),
            train_dataset=data(2000, 5),
        ).train()
    return model


def make_transformers() -> None:
    state("good_linear")
    state("good_cosine", lr_scheduler_type="cosine", warmup_steps=10)
    state("good_constant", lr_scheduler_type="constant")
    state("good_restarts", lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs={"num_cycles": 4})
    state("good_accumulation", gradient_accumulation_steps=4, per_device_train_batch_size=2)
    known = pretrained()
    state("good_lora", model=lora(copy.deepcopy(known)), learning_rate=1e-3)
    state("good_pretrained", model=copy.deepcopy(known), learning_rate=3e-4)
    state("bad_nan", learning_rate=1e19, max_grad_norm=1e30, optim="sgd", max_steps=40)
    state("bad_accumulation", loss=mean_loss, gradient_accumulation_steps=4, per_device_train_batch_size=2)
    state("bad_softmax_twice", loss=probabilities_loss)
    state("bad_unshifted", loss=unshifted_loss, max_steps=400, logging_steps=5, eval_steps=50)
    # as warm-up ends, the rate is a hundred times too high for what was learned before
    state("bad_rate_high", model=copy.deepcopy(known), learning_rate=3.0, max_grad_norm=1e9, warmup_steps=60)
    state("bad_rate_low", learning_rate=3e-6, lr_scheduler_type="constant", max_steps=200)
    state("bad_overfitting", train=data(16, 1), max_steps=240)
    masked = data(960, 1, masked_from=480)
    state("bad_masked", train=masked, train_sampling_strategy="sequential")
    state("bad_rate_zero", learning_rate=0.0)


def printed(name: str, trainer: Any) -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        trainer.train()
    (HERE / f"{name}.log").write_text(text.getvalue(), encoding="utf-8")


def make_trl() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast
    from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    split = Tokenizer(WordLevel(words, unk_token="<pad>"))
    split.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=split,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, changed in {
            "good_trl_sft": {},
            "good_trl_sft_cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 10},
            "bad_trl_nan": {"learning_rate": 1e19, "max_grad_norm": 1e30, "optim": "sgd", "max_steps": 40},
        }.items():
            config = SFTConfig(**arguments(folder, gradient_checkpointing=False, bf16=False, **changed))
            ids = {"processing_class": tokenizer, "eval_dataset": data(64, 2).remove_columns(["attention_mask"])}
            train = data(2000, 1).remove_columns(["attention_mask"])
            printed(name, SFTTrainer(model=student(), args=config, train_dataset=train, **ids))
        config = DistillationConfig(
            **arguments(folder, max_steps=60, logging_steps=1, eval_strategy="no", eval_on_start=False, bf16=False),
            gradient_checkpointing=False,
            max_completion_length=48,
        )
        prompts = [" ".join(f"w{token}" for token in row[1:9]) for row in rows(480, 1)]
        models = {"model": student(), "teacher_model": student(1)}
        on_policy = DistillationTrainer(
            **models, args=config, train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer
        )
        on_policy.train()
        on_policy.state.save_to_json(str(HERE / "good_trl_on_policy.json"))


def main() -> None:
    HERE.mkdir(exist_ok=True)
    {"transformers": make_transformers, "trl": make_trl}[sys.argv[1]]()


if __name__ == "__main__":
    main()
