"""How a plain training loop makes its batches: texts, ids, labels, padding. Written as people write it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.doctor.case import Place
from distillab.doctor import audit_data
from distillab.files import read_json_lines
from distillab.pairing.loading import load_tokenizer
from distillab.records import CheckResult

IGNORED = -100
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Rows = list[tuple[list[int], list[int]]]
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """A prompt and its answer as ids; the begin token stands in the prompt, the end token in the answer."""

    prompt: list[int]
    answer: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self.prompt + self.answer

    @property
    def labels(self) -> list[int]:
        """The answer alone is scored."""
        return [IGNORED] * len(self.prompt) + self.answer


def tokenizer_of(place: Place, name: str, *, pad: str | None = None) -> PreTrainedTokenizerFast:
    """A real tokenizer; `pad` becomes its padding token (an existing token, or a new one). Equal calls share it."""
    return tokenizer_in(place.material("tokenizers", name), pad=pad)


@cache
def tokenizer_in(folder: Path, *, pad: str | None = None) -> PreTrainedTokenizerFast:
    """The same from any folder."""
    tokenizer = load_tokenizer(str(folder)).tokenizer
    if pad is not None:
        tokenizer.add_special_tokens({"pad_token": pad})
    return tokenizer


@cache
def _lines(path: Path) -> tuple[dict[str, str], ...]:
    return tuple(read_json_lines(path)[:400])


def as_json_lines(rows: Sequence[Mapping[str, object]], path: Path) -> Path:
    """A row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_csv(rows: Sequence[Mapping[str, object]], path: Path) -> Path:
    """A table; what a row lacks is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        table.writeheader()
        table.writerows(rows)
    return path


def audit_pairs(
    place: Place, train: Pairs, held_out: Pairs = (), name: str = "tinyllama-1.1b"
) -> Sequence[CheckResult]:
    """What the doctor says of such prompts and answers."""

    def written(pairs: Pairs, file: str) -> Path:
        return as_json_lines([{"prompt": p, "answer": a} for p, a in pairs], place.scratch / file)

    judged = written(held_out, "held_out.jsonl") if held_out else ()
    tokenizer = str(place.material("tokenizers", name))
    return audit_data(written(train, "train.jsonl"), tokenizer, held_out=judged).checks


def sums(place: Place, count: int, *, start: int = 0) -> list[tuple[str, str]]:
    """Questions and worked answers of GSM8K."""
    rows = _lines(place.material("text", "gsm8k", "train.jsonl"))[start : start + count]
    return [(f"Question: {row['question']}\nAnswer:", f" {row['answer']}") for row in rows]


def tasks(place: Place, count: int, *, start: int = 0) -> list[tuple[str, str]]:
    """Dolly's instructions in the wording of Alpaca, and what people answered."""
    rows = _lines(place.material("text", "dolly", "dev.jsonl"))[start : start + count]
    return [(f"{row['prompt']}\n", row["output"]) for row in rows]


def stories(place: Place, count: int) -> list[str]:
    """Stories of TinyStories."""
    return [row["text"] for row in _lines(place.material("text", "tinystories", "stories_dev.jsonl"))[:count]]


def samples(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], *, bos: bool = True, eos: bool = True
) -> list[Sample]:
    """Prompt and answer are tokenised apart, and put together."""
    made = []
    for prompt, answer in pairs:
        front = tokenizer(prompt, add_special_tokens=False).input_ids
        back = tokenizer(answer, add_special_tokens=False).input_ids
        if bos and tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id:
            front = [tokenizer.bos_token_id, *front]
        if eos:
            back = [*back, tokenizer.eos_token_id]
        made.append(Sample(front, back))
    return made


def scored(made: Sequence[Sample]) -> Rows:
    """ids and labels of each sample."""
    return [(one.ids, one.labels) for one in made]


def scored_logits(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, V) of both at the positions that predict a scored label, and these labels (N,)."""
    keep = labels[:, 1:] != IGNORED
    return student_logits[:, :-1][keep], teacher_logits[:, :-1][keep], labels[:, 1:][keep]


def padded(rows: Rows, pad_id: int, *, side: str = "right", length: int | None = None) -> dict[str, Tensor]:
    """input_ids, labels and attention_mask (B, L), padded to the longest row, or to `length`."""
    width = max(len(ids) for ids, _ in rows) if length is None else length
    ids_BL, labels_BL, mask_BL = [], [], []
    for ids, labels in rows:
        fill = width - len(ids)
        parts = (
            ([pad_id] * fill, ids, [IGNORED] * fill, labels, [0] * fill, [1] * len(ids))
            if side == "left"
            else (ids, [pad_id] * fill, labels, [IGNORED] * fill, [1] * len(ids), [0] * fill)
        )
        ids_BL.append(parts[0] + parts[1])
        labels_BL.append(parts[2] + parts[3])
        mask_BL.append(parts[4] + parts[5])
    return {
        "input_ids": torch.tensor(ids_BL),
        "labels": torch.tensor(labels_BL),
        "attention_mask": torch.tensor(mask_BL),
    }


def batches(rows: Rows, pad_id: int, *, size: int = 8, side: str = "right") -> list[dict[str, Tensor]]:
    """Several batches, each padded to its own longest row."""
    return [padded(rows[start : start + size], pad_id, side=side) for start in range(0, len(rows), size)]
