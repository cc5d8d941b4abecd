"""What a case is, and the sound folders that cases break copies of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TRAIN = ("train", "recipe.yaml")


@dataclass(frozen=True)
class Case:
    """One broken input.

    Attributes:
        group: what is broken.
        name: how, in a few words.
        make: makes it in the folder of the case, which is a copy of the sound one.
        command: given to distillab in that folder.
        says: texts that the answer must hold; of a case that works, what it prints.
        works: the input is unusual and not broken: it must be taken.
        encoding: of the terminal.
        most_bytes: that a file may have, as a quota has it; None: any.
    """

    group: str
    name: str
    make: Callable[[Path], object]
    command: tuple[str, ...]
    says: tuple[str, ...]
    works: bool = False
    encoding: str = "utf-8"
    most_bytes: int | None = None


def make_sound(folder: Path) -> None:
    """A student, a teacher with other weights, rows, and a recipe of one step."""
    rows = [{"prompt": f"What is {a} plus {b}?", "answer": f"The sum is {a + b}."} for a in range(6) for b in range(6)]
    write_rows(folder / "rows.jsonl", rows)
    tokenizer = small_tokenizer([f"{row['prompt']}\n{row['answer']}" for row in rows])
    for seed, name in enumerate(("model", "teacher")):
        torch.manual_seed(seed)
        LlamaForCausalLM(small_config(len(tokenizer))).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    values = {
        "student": {"path": "./model"},
        "data": {"train": {"path": "rows.jsonl"}, "max_tokens": 96},
        "training": {"steps": 1, "batch_size": 4, "device": "cpu"},
        "evaluation": {"rows": 4, "curve_rows": 2, "generate_rows": 2, "max_new_tokens": 4},
        "output": "out",
    }
    (folder / "recipe.yaml").write_text(json.dumps(values))  # JSON is YAML


def small_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with one special token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def small_config(vocabulary: int, **changes: Any) -> LlamaConfig:
    """Two layers of width 16."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    return LlamaConfig(**(sizes | changes))


def write_rows(path: Path, rows: list[Any]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def file(name: str, content: bytes | str) -> Callable[[Path], object]:
    """A file with this content, in place of what is there."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def removed(name: str) -> Callable[[Path], object]:
    """A file or folder that is gone."""

    def make(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def cut(name: str) -> Callable[[Path], object]:
    """The first half of a file."""

    def make(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return make


def changed(name: str, **changes: Any) -> Callable[[Path], object]:
    """A JSON file with some keys set otherwise."""

    def make(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def both(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    """One after another."""

    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def nothing(folder: Path) -> None:
    """The sound folder as it is: the command is what is wrong."""
