"""Batches as careful trainers make them, on real text; the tests spoil them one way at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from distillab.pairing.loading import load_tokenizer

TOKENIZERS = ("tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512")
Batch = dict[str, torch.Tensor]
# (ids, labels) of one row, labels in place and -100 where nothing is scored
Row = tuple[list[int], list[int]]
ROWS = 8


@cache
def tokenizer_of(folder: Path, name: str) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(str(folder / "tokenizers" / name)).tokenizer
    tokenizer.model_max_length = 10**9
    return tokenizer


@cache
def pairs_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """Prompts and short answers: real questions, and the beginning of their solutions."""
    lines = (folder / "text" / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[: 3 * ROWS]
    rows = [json.loads(line) for line in lines]
    return tuple((row["question"], row["answer"].split("\n")[0]) for row in rows)


class World:
    """One tokenizer, and what a trainer makes with it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> None:
        self.tokenizer = tokenizer
        self.pairs = list(pairs)
        self.eos: int = tokenizer.eos_token_id
        ids = tokenizer("a")["input_ids"]
        self.begin = [ids[0]] if ids[0] == tokenizer.bos_token_id else []

    def text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def rows(self, count: int = ROWS, *, first: int = 0, end: bool = True) -> list[Row]:
        """[begin, prompt, answer, end]; the answer and the end are scored."""
        made = []
        for prompt, answer in self.pairs[first : first + count]:
            given = [*self.begin, *self.text(prompt + "\n")]
            learned = self.text(answer) + ([self.eos] if end else [])
            made.append((given + learned, [-100] * len(given) + learned))
        return made

    def chat(self, ask: str, answer: str, end: list[int], count: int = ROWS, *, turns: int = 1) -> list[Row]:
        """Conversations in a template; answers and what ends them are scored."""
        made = []
        for number in range(count):
            ids, labels = list(self.begin), [-100] * len(self.begin)
            for turn in range(turns):
                question, said = self.pairs[(number + turn * count) % len(self.pairs)]
                given, learned = self.text(ask.format(question) + answer), self.text(said) + end
                ids += given + learned
                labels += [-100] * len(given) + learned
            made.append((ids, labels))
        return made

    def instructions(self) -> list[Row]:
        """Rows in the wording of Alpaca."""
        return self.chat("### Instruction:\n{}\n\n", "### Response:\n", [self.eos])

    def turns(self, count: int = ROWS, *, turns: int = 2) -> list[Row]:
        """Conversations in Mistral's wording."""
        return self.chat("[INST] {} ", "[/INST]", [self.eos], count, turns=turns)

    def chatml(self, *, turns: int = 1) -> list[Row]:
        """Conversations in ChatML's wording, which ends an answer with a marker."""
        end = self.text("<|im_end|>")
        return self.chat("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n", end, turns=turns)

    def of(self, change: Callable[[int, str, str], tuple[str, str]]) -> World:
        """The same with other prompts and answers, made of number, prompt and answer."""
        return World(self.tokenizer, [change(number, *pair) for number, pair in enumerate(self.pairs)])

    def stream(self) -> list[int]:
        """Prompts and answers one after another, without begin and end."""
        return [token for ids, _ in self.rows(3 * ROWS) for token in ids[len(self.begin) : -1]]

    def batch(self, rows: Sequence[Row], *, side: str = "right", pad: int | None = None, to: int = 0) -> Batch:
        """Padded to the longest row; masks go by length. No padding token of its own: EOS, as most do."""
        pad = self.eos if pad is None else pad
        longest = max([to, *(len(ids) for ids, _ in rows)])
        made: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for ids, labels in rows:
            room = longest - len(ids)
            filled = [(ids, pad), (labels, -100), ([1] * len(ids), 0)]
            for key, (values, filling) in zip(made, filled, strict=True):
                made[key].append(values + [filling] * room if side == "right" else [filling] * room + values)
        return {key: torch.tensor(values) for key, values in made.items()}

    def good(self, **changes: Any) -> Batch:
        return self.batch(self.rows(), **changes)

    def packed(self, *, positions: bool = True, start_masked: bool = True) -> Batch:
        """Two rows of four samples each."""
        ids, labels, places = [], [], []
        for first in (0, ROWS // 2):
            rows = self.rows(ROWS // 2, first=first)
            ids.append([token for row, _ in rows for token in row])
            labels.append([token for _, row in rows for token in row])
            places.append([place for row, _ in rows for place in range(len(row))])
            if not start_masked:
                labels[-1] = list(ids[-1])
        width = min(map(len, ids))
        made = {"input_ids": ids, "labels": labels} | ({"position_ids": places} if positions else {})
        return {key: torch.tensor([row[:width] for row in rows]) for key, rows in made.items()}


def scored_from(first: int, ids: list[int]) -> Row:
    """The row with everything scored from there on."""
    return ids, [-100] * first + ids[first:]


def answer_start(row: Row) -> int:
    """Where the first scored token stands."""
    return next(number for number, label in enumerate(row[1]) if label != -100)


def unmasked(rows: Sequence[Row]) -> list[Row]:
    return [(ids, list(ids)) for ids, _ in rows]


def inverted(rows: Sequence[Row]) -> list[Row]:
    """What is scored is masked, and the other way round."""
    return [(ids, [i if label == -100 else -100 for i, label in zip(ids, own, strict=True)]) for ids, own in rows]


def two_sided(world: World, rows: Sequence[Row]) -> Batch:
    """Inputs padded left, labels padded right."""
    return world.batch(rows, side="left") | {"labels": world.batch(rows)["labels"]}


def changed(change: Callable[[Batch], Batch], **made: Any) -> Callable[[World], Batch]:
    """A good batch with other columns."""

    def spoil(world: World) -> Batch:
        batch = world.good(**made)
        return batch | change(batch)

    return spoil


WorldOf = Callable[[str], World]
