"""Batches that no check was tuned on: mistakes of masks, padding and joining, and set-ups of other shapes."""

from __future__ import annotations

import ast
import heapq
import inspect
import shlex
import statistics
import textwrap
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, DataCollatorWithFlattening, PreTrainedTokenizerFast

from bench.doctor.case import Cases, Place
from bench.doctor.rows import (
    IGNORED,
    Rows,
    batches,
    chatml_tokenizer,
    padded,
    samples,
    scored,
    stories,
    sums,
    tasks,
    tokenizer_of,
)
from distillab.doctor import audit_batch
from distillab.files import read_json_lines
from distillab.records import CheckResult

CASES = Cases()


@cache
def functions() -> list[tuple[str, str]]:
    """Functions of Python's own library: the head with its description, and the body."""
    pairs = []
    for module in (textwrap, statistics, heapq, shlex, inspect):
        source = inspect.getsource(module)
        lines = source.splitlines(keepends=True)
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                head, body = node.body[0].end_lineno, node.end_lineno
                if head is not None and body is not None and body - head <= 30:
                    pairs.append(("".join(lines[node.lineno - 1 : head]), "".join(lines[head:body])))
    return pairs


def requests(place: Place, count: int) -> list[tuple[str, str]]:
    """Tasks that people wrote as seeds of Self-Instruct: some with an input, many with very short answers."""
    pairs = []
    for row in read_json_lines(place.material("text", "self-instruct", "seed_tasks.jsonl"))[:count]:
        first = row["instances"][0]
        pairs.append((f"{row['instruction']}\n{first['input']}\nOutput:", f" {first['output']}"))
    return pairs


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert isinstance(ids, list), "one text was given"
    return ids


def _answers(
    given: object, tokenizer: PreTrainedTokenizerFast, *, absolute: bool | None = None
) -> Sequence[CheckResult]:
    return audit_batch(given, tokenizer, shifts="model", learns="answers", absolute_positions=absolute)


# ---------------------------------------------------------------- faults


@CASES.fault("torch", "batch", "all-masked-rows")
def marker_of_the_answer_is_other_tokens_in_its_text(place: Place) -> Sequence[CheckResult]:
    """The marker is tokenised alone and searched in the row; behind a line break it is other tokens."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    marker = _encode(tokenizer, "### Response:")
    rows: Rows = []
    for prompt, answer in tasks(place, 16):
        ids = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
        at = [i for i in range(len(ids)) if ids[i : i + len(marker)] == marker]
        cut = at[-1] + len(marker) if at else len(ids)
        rows.append((ids, [IGNORED] * cut + ids[cut:]))
    return _answers(batches(rows, 0, size=4), tokenizer)


@CASES.fault("torch", "batch", "eos-not-scored")
def end_of_every_turn_left_out_of_the_mask(place: Place) -> Sequence[CheckResult]:
    """In a chat the text of each answer is scored, and the marker that ends it belongs to the frame."""
    tokenizer = chatml_tokenizer(place)
    tokenizer.eos_token = "<|im_end|>"
    rows: Rows = []
    for start in range(0, 24, 2):
        ids, labels = [1], [IGNORED]
        for prompt, answer in sums(place, 2, start=start):
            for text, learned in (
                (f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", False),
                (answer.strip(), True),
                ("<|im_end|>\n", False),
            ):
                part = _encode(tokenizer, text)
                ids += part
                labels += part if learned else [IGNORED] * len(part)
        rows.append((ids, labels))
    return _answers(batches(rows, 0, size=4), tokenizer)


@CASES.fault("torch", "batch", "double-bos")
def answers_tokenised_with_a_begin_token_of_their_own(place: Place) -> Sequence[CheckResult]:
    """tokenizer(prompt) + tokenizer(answer): the second call adds a begin token too. One row a batch."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows: Rows = []
    for prompt, answer in tasks(place, 12):
        front, back = tokenizer(prompt).input_ids, [*tokenizer(answer).input_ids, tokenizer.eos_token_id]
        rows.append((front + back, [IGNORED] * len(front) + back))
    return _answers(batches(rows, 0, size=1), tokenizer)


@CASES.fault("torch", "batch", "answers-truncated")
def cut_answers_that_end_all_the_same(place: Place) -> Sequence[CheckResult]:
    """(prompt + answer)[:127] + [end]: the student learns to end in the middle of a sentence."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    assert tokenizer.pad_token_id is not None
    made = [one for one in samples(tokenizer, sums(place, 60), eos=False) if len(one.prompt) <= 90]
    end = [tokenizer.eos_token_id]
    rows = [(one.ids[:127] + end, one.labels[:127] + end) for one in made]
    return _answers(batches(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("transformers", "batch", "labels-misaligned", "labels-not-inputs")
def ids_padded_left_and_labels_right(place: Place) -> Sequence[CheckResult]:
    """tokenizer.pad goes by its padding_side; pad_sequence, for the labels, always fills on the right."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    tokenizer.padding_side = "left"
    rows = scored(samples(tokenizer, tasks(place, 24)))
    made = []
    for start in range(0, len(rows), 6):
        part = rows[start : start + 6]
        given = tokenizer.pad({"input_ids": [ids for ids, _ in part]}, return_tensors="pt")
        labels = [torch.tensor(labels) for _, labels in part]
        filled = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        made.append({"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], "labels": filled})
    return _answers(made, tokenizer)


@CASES.fault("torch", "batch", "positions-wrong")
def positions_that_begin_at_one(place: Place) -> Sequence[CheckResult]:
    """cumsum of the attention mask without the − 1, for a model that learns a vector a position."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    assert tokenizer.pad_token_id is not None
    made = batches(scored(samples(tokenizer, tasks(place, 16))), tokenizer.pad_token_id, size=4)
    for one in made:
        one["position_ids"] = one["attention_mask"].cumsum(-1) * one["attention_mask"]
    return _answers(made, tokenizer, absolute=True)


@CASES.fault("torch", "batch", "tokens-hidden")
def attention_mask_made_of_the_labels(place: Place) -> Sequence[CheckResult]:
    """attention_mask = labels != −100: the answer is learned without its prompt."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = batches(scored(samples(tokenizer, sums(place, 24))), 0)
    for one in made:
        one["attention_mask"] = (one["labels"] != IGNORED).long()
    return _answers(made, tokenizer)


@CASES.fault("transformers", "batch", "labels-not-inputs")
def collator_for_masked_language_models(place: Place) -> Sequence[CheckResult]:
    """DataCollatorForLanguageModeling masks tokens unless it is told mlm=False."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(place, "tok512", pad="<unk>")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    collate = DataCollatorForLanguageModeling(tokenizer)
    rows = [{"input_ids": [1, *_encode(tokenizer, text)][:192]} for text in stories(place, 24)]
    made = [collate(rows[start : start + 8]) for start in range(0, 24, 8)]
    return audit_batch(made, tokenizer, shifts="model", learns="text")


@CASES.fault("torch", "batch", "eos-missing", "markers-in-pieces")
def end_token_of_another_family_as_text(place: Place) -> Sequence[CheckResult]:
    """A literal "</s>" behind every answer, from the days of a Llama student: three pieces for GPT-2."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    assert tokenizer.pad_token_id is not None
    pairs = [(prompt, f"{answer}</s>") for prompt, answer in functions()[:24]]
    rows = scored(samples(tokenizer, pairs, eos=False))
    return _answers(batches(rows, tokenizer.pad_token_id, size=6), tokenizer)


@CASES.fault("torch", "batch", "labels-shifted-twice", "labels-misaligned")
def one_of_two_sources_comes_shifted(place: Place) -> Sequence[CheckResult]:
    """Two prepared data sets are mixed; one holds labels for a loop that does not shift."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows: Rows = []
    for one, other in zip(
        samples(tokenizer, sums(place, 16)), samples(tokenizer, tasks(place, 16, start=50)), strict=True
    ):
        rows += [(one.ids, one.labels), (other.ids, [*other.labels[1:], IGNORED])]
    return _answers(batches(rows, 0), tokenizer)


# ---------------------------------------------------------------- good


@CASES.good("torch", "batch")
def code_one_row_a_batch(place: Place) -> Sequence[CheckResult]:
    """A function's head and description is the prompt, its body the answer: indentation, brackets, line breaks."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    rows = scored(samples(tokenizer, functions()[:32]))
    return _answers([padded([row], 0) for row in rows], tokenizer)


@CASES.good("torch", "batch")
def long_chats_in_mistrals_wording(place: Place) -> Sequence[CheckResult]:
    """Eight turns in one row of its own, [INST] … [/INST] as text, the end token behind every answer."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    made = []
    for start in range(0, 48, 8):
        ids, labels = [1], [IGNORED]
        for prompt, answer in tasks(place, 8, start=start):
            front = _encode(tokenizer, f"[INST] {prompt.strip()} [/INST]")
            back = [*_encode(tokenizer, answer), tokenizer.eos_token_id]
            ids += front + back
            labels += [IGNORED] * len(front) + back
        made.append(padded([(ids, labels)], 0))
    return _answers(made, tokenizer)


@CASES.good("transformers", "batch")
def flattened_by_the_collator(place: Place) -> Sequence[CheckResult]:
    """DataCollatorWithFlattening: one row, no padding, no mask, positions that begin again."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b")
    collate = DataCollatorWithFlattening()
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in scored(samples(tokenizer, sums(place, 24)))]
    return _answers([collate(rows[start : start + 6]) for start in range(0, 24, 6)], tokenizer)


@CASES.good("torch", "batch")
def short_answers_padded_left_with_the_positions_of_generate(place: Place) -> Sequence[CheckResult]:
    """cumsum − 1, and 1 on the padding, as transformers' generate makes them."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = batches(scored(samples(tokenizer, requests(place, 40))), 0, side="left")
    for one in made:
        mask: Tensor = one["attention_mask"]
        one["position_ids"] = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    return _answers(made, tokenizer)


@CASES.good("torch", "batch")
def inputs_and_targets_of_a_stream(place: Place) -> Sequence[CheckResult]:
    """x = data[i : i + L] and y = data[i + 1 : i + 1 + L], at random places; nobody shifts again."""
    tokenizer = tokenizer_of(place, "tok512")
    stream = torch.tensor([i for text in stories(place, 100) for i in [1, *_encode(tokenizer, text), 2]])
    places = torch.randint(0, len(stream) - 129, (3, 8), generator=torch.Generator().manual_seed(3))
    made = [
        {
            "input_ids": torch.stack([stream[i : i + 128] for i in one]),
            "labels": torch.stack([stream[i + 1 : i + 129] for i in one]),
        }
        for one in places.tolist()
    ]
    return audit_batch(made, tokenizer, shifts="batch", learns="text")
