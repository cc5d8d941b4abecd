"""Batches by the conventions of eight trainers: texts, rows, labels, batches. A fault changes one of the steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.doctor.case import Place
from bench.doctor.grammar import Random
from bench.doctor.rows import CHATML, IGNORED, padded, stories, sums, tasks, tokenizer_of
from distillab.doctor import audit_batch
from distillab.records import CheckResult

Batch = dict[str, Tensor]
# before a question, before an answer, behind an answer; None: the tokenizer's EOS, as a token
TEMPLATES: dict[str, tuple[str, str, str | None]] = {
    "words": ("Question: ", "\nAnswer:", None),
    "alpaca": ("### Instruction:\n", "\n\n### Response:\n", None),
    "inst": ("[INST] ", " [/INST]", None),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
}
_SYSTEM = "You are a patient tutor. Answer in full sentences, and give the result at the end.\n\n"


@dataclass
class Row:
    """A sequence; parts: of each token "begin", "prompt", "answer", "end" or "frame" (between turns)."""

    ids: list[int]
    parts: list[str]
    labels: list[int]

    def places(self, *parts: str) -> list[int]:
        """Where the tokens of these parts stand."""
        return [place for place, part in enumerate(self.parts) if part in parts]

    def starts(self) -> list[int]:
        """Where the answers begin."""
        return [
            place for place in self.places("answer") if place == 0 or self.parts[place - 1] not in ("answer", "end")
        ]


@dataclass(frozen=True)
class Batches:
    """A set-up of batches; the steps that a fault changes are lists of functions.

    shifts: what moves the labels, and told: whether that and what is learned is said to the doctor. moves: by how much
    the batch moves the labels where it does. begins: BOS tokens before a row. end: behind an answer; "text" writes
    `end_text` as plain text. of_rows: changes to rows; of_batches: to what is collated; they get what they may draw.
    """

    trainer: str
    tokenizer: str
    pad: str
    seed: int
    template: str = "words"
    source: Literal["sums", "tasks", "stories"] = "sums"
    turns: int = 1
    system: bool = False
    learns: Literal["answers", "text"] = "answers"
    shifts: Literal["model", "batch"] = "model"
    side: str = "right"
    packing: Literal["none", "positions", "block mask"] = "none"
    mask: bool = True
    positions: bool = False
    multiple: int = 1
    size: int = 8
    count: int = 24
    start: int = 0
    told: bool = True
    form: str = "tensors"
    moves: int = 1
    begins: int = 1
    answer_begins: bool = False
    end: Literal["token", "text", "none"] = "token"
    end_text: str = ""
    written: str | None = None
    written_share: float = 1.0
    encoder: str | None = None
    encoder_share: float = 1.0
    markers: bool = True
    vocabulary: Literal["not told", "right", "without padding"] = "not told"
    words: Callable[[str], str] = str
    of_rows: tuple[Callable[[list[Row], PreTrainedTokenizerFast, Random], None], ...] = ()
    of_batches: tuple[Callable[[Batch, Batch, Random], None], ...] = ()

    @property
    def chat(self) -> bool:
        """The template has markers that are tokens."""
        return self.template == "chatml"

    @property
    def has_bos(self) -> bool:
        """Rows begin with a token that only begins rows."""
        return self.tokenizer != "gpt2"

    @property
    def padded(self) -> bool:
        """Rows are padded, and not packed."""
        return self.packing == "none" and self.size > 1


@cache
def _tokenizer(place: Place, name: str, pad: str, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tokenizer_of(place, name, pad=pad))
    if template == "chatml":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.eos_token = "<|im_end|>"
    if template is not None:
        tokenizer.chat_template = CHATML
    return tokenizer


def tokenizer_for(made: Batches, place: Place) -> PreTrainedTokenizerFast:
    """The student's tokenizer, with the markers of ChatML where its rows have them."""
    template = None if not made.chat else "chatml" if made.markers else "template alone"
    return _tokenizer(replace(place, scratch=place.material()), made.tokenizer, made.pad, template)


def make_rows(made: Batches, place: Place, draw: Random) -> list[Row]:
    """Texts, encoded part by part, with the labels in place."""
    own = tokenizer_for(made, place)
    other = own if made.encoder is None else tokenizer_of(place, made.encoder, pad="<unk>")
    rows = []
    for number in range(made.count):
        encoder = other if draw.random() < made.encoder_share else own
        written = made.written if made.written is not None and draw.random() < made.written_share else made.template
        row = Row([], [], [])
        begin = [encoder.bos_token_id] if made.has_bos and encoder.bos_token_id is not None else []
        _add(row, begin * made.begins, "begin", learned=False)
        for text, part in _texts(made, place, written, number):
            if part == "answer" and made.answer_begins:
                _add(row, begin, "begin", learned=True)
            ids = encoder(text, add_special_tokens=False).input_ids
            _add(row, ids, part, learned=made.learns == "text" or part in ("answer", "end"))
            if part == "answer" and made.end == "token" and (TEMPLATES[written][2] is None):
                _add(row, [encoder.eos_token_id], "end", learned=True)
        rows.append(row)
    return rows


def _texts(made: Batches, place: Place, written: str, number: int) -> list[tuple[str, str]]:
    if made.source == "stories":
        text = stories(place, 400)[made.start + number][:400].replace("\n", " ")
        return [(made.words(text), "answer"), *([(made.end_text, "answer")] if made.end == "text" else [])]
    before, between, behind = TEMPLATES[written]
    found: list[tuple[str, str]] = []
    for turn in range(made.turns):
        at = (made.start + number * made.turns + turn) % 390
        (question, answer) = (tasks if made.source == "tasks" else sums)(place, 1, start=at)[0]
        if made.source == "tasks":
            before, between = "", ""
        question = question.removeprefix("Question: ").removesuffix("\nAnswer:")
        system = _SYSTEM if turn == 0 and made.system else ""
        space = "" if between.endswith("\n") or made.source == "tasks" else " "
        found += [(f"{before}{system}{question}{between}", "prompt"), (space + made.words(answer.strip()), "answer")]
        if made.end == "text":
            found.append((made.end_text, "answer"))
        elif made.end == "token" and behind is not None:
            found.append((behind, "end"))
        if behind is not None:
            found.append(("\n", "frame"))
    return found


def _add(row: Row, ids: Sequence[int], part: str, *, learned: bool) -> None:
    row.ids += ids
    row.parts += [part] * len(ids)
    row.labels += ids if learned else [IGNORED] * len(ids)


def collate(made: Batches, rows: Sequence[Row], pad_id: int) -> list[Batch]:
    """Padded or packed, the labels moved where the batch moves them."""
    batches = []
    for start in range(0, len(rows), made.size):
        part = [_moved(row, made.moves) if made.shifts == "batch" else row for row in rows[start : start + made.size]]
        if made.packing == "none":
            batches.append(_padded(made, part, pad_id))
            continue
        lists = {
            "input_ids": [token for row in part for token in row.ids],
            "labels": [token for row in part for token in row.labels],
            "position_ids": [place for row in part for place in range(len(row.ids))],
        }
        if made.packing == "block mask":
            lists["attention_mask"] = [number for number, row in enumerate(part, start=1) for _ in row.ids]
        batches.append({name: torch.tensor([values]) for name, values in lists.items()})
    return batches


def _moved(row: Row, by: int) -> Row:
    labels = [IGNORED] * max(-by, 0) + row.labels[max(by, 0) : len(row.labels) - max(-by, 0)]
    labels += [IGNORED] * (len(row.ids) - len(labels))
    return Row(row.ids[:-1], row.parts[:-1], labels[:-1])


def _padded(made: Batches, rows: Sequence[Row], pad_id: int) -> Batch:
    width = -(-max(len(row.ids) for row in rows) // made.multiple) * made.multiple
    batch = padded([(row.ids, row.labels) for row in rows], pad_id, side=made.side, length=width)
    if made.positions:
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return batch


def make_batches(made: Batches, place: Place) -> list[Batch]:
    """All steps, with the faults of the set-up."""
    tokenizer, draw = tokenizer_for(made, place), Random(made.seed)
    rows = make_rows(made, place, draw)
    for change in made.of_rows:
        change(rows, tokenizer, draw)
    pad_id = len(tokenizer) - 1 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    batches = collate(made, rows, pad_id)
    for batch in batches:
        true = {name: tensor.clone() for name, tensor in batch.items()}
        if made.packing == "none" and not made.mask:
            del batch["attention_mask"]
        for alter in made.of_batches:
            alter(batch, true, draw)
    return batches


def examine_batches(made: Batches, place: Place) -> Sequence[CheckResult]:
    """The doctor's checks, told what a user of this trainer would tell."""
    tokenizer = tokenizer_for(made, place)
    beyond = {"not told": None, "right": len(tokenizer), "without padding": len(tokenizer) - 1}[made.vocabulary]
    return audit_batch(
        [_in_form(batch, made.form) for batch in make_batches(made, place)],
        tokenizer,
        shifts=made.shifts if made.told else None,
        learns=made.learns if made.told else None,
        vocabulary=beyond,
        absolute_positions=True if made.tokenizer == "gpt2" and made.told else None,
    )


def _in_form(batch: Batch, form: str) -> dict[str, object]:
    if form == "arrays":
        return {name: tensor.numpy() for name, tensor in batch.items()}
    if form == "lists":
        return {name: tensor.tolist() if tensor.dtype == torch.int64 else tensor for name, tensor in batch.items()}
    if form == "int32":
        return {name: tensor.int() if tensor.dtype == torch.int64 else tensor for name, tensor in batch.items()}
    return {**batch, **({"length": torch.ones(1)} if form == "another column" else {})}
