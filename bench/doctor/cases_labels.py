"""Faults of a plain torch loop: what is scored, and against which token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.doctor.case import Cases, Place
from bench.doctor.rows import IGNORED, batches, padded, samples, scored, sums, tasks, tokenizer_of
from distillab.doctor import audit_batch
from distillab.records import CheckResult

CASES = Cases()


@CASES.fault("torch", "batch", "answer-at-prompt-positions")
def answer_beside_its_prompt(place: Place) -> Sequence[CheckResult]:
    """The investigation: the prompt is read, the answer is the label, each padded to one length."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="</s>")
    read = tokenizer([p for p, _ in tasks(place, 12)], padding="max_length", truncation=True, max_length=128)
    told = tokenizer([a for _, a in tasks(place, 12)], padding="max_length", truncation=True, max_length=128)
    labels = torch.tensor(told.input_ids)
    labels[torch.tensor(told.attention_mask) == 0] = IGNORED
    batch = {
        "input_ids": torch.tensor(read.input_ids),
        "attention_mask": torch.tensor(read.attention_mask),
        "labels": labels,
    }
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "eos-not-scored")
def padding_masked_by_id_where_it_is_eos(place: Place) -> Sequence[CheckResult]:
    """pad = eos, and every label that equals the padding is masked: no answer ever ends."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    batch["labels"][batch["labels"] == tokenizer.pad_token_id] = IGNORED
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "padding-in-loss")
def labels_are_a_clone_of_the_ids(place: Place) -> Sequence[CheckResult]:
    """labels = input_ids.clone(), padding and all, on plain texts."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    batch["labels"] = batch["input_ids"].clone()
    return audit_batch(batch, tokenizer, learns="text")


@CASES.fault("torch", "batch", "padding-in-loss")
def padding_scored_behind_the_answers(place: Place) -> Sequence[CheckResult]:
    """Only the prompt is masked; with pad = eos the student learns to repeat the end token for ever."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="</s>")
    made = samples(tokenizer, sums(place, 12))
    batch = padded(scored(made), tokenizer.pad_token_id)
    batch["labels"] = batch["input_ids"].clone()
    for row, one in enumerate(made):
        batch["labels"][row, : len(one.prompt)] = IGNORED
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "prompt-in-loss")
def prompts_are_scored(place: Place) -> Sequence[CheckResult]:
    """Answers are meant to be learned, and nothing masks the prompts."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = samples(tokenizer, tasks(place, 8))
    return audit_batch(padded([(s.ids, s.ids) for s in made], tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "prompt-in-loss")
def mask_from_the_left_on_rows_padded_left(place: Place) -> Sequence[CheckResult]:
    """labels[:len(prompt)] = -100 where the padding stands on the left: most of the prompt is scored."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    made = samples(tokenizer, tasks(place, 10))
    batch = padded([(s.ids, s.ids) for s in made], tokenizer.pad_token_id, side="left")
    for row, one in enumerate(made):
        batch["labels"][row, : len(one.prompt)] = IGNORED
    return audit_batch(batch, tokenizer, learns="answers")


@CASES.fault("torch", "batch", "labels-shifted-twice")
def shifted_for_a_model_that_shifts(place: Place) -> Sequence[CheckResult]:
    """The data set moves the labels by one, as nanoGPT's does, and the model of transformers moves them again."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    rows = [(s.ids[:-1], s.labels[1:]) for s in samples(tokenizer, sums(place, 8))]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer, shifts="model")


@CASES.fault("torch", "batch", "labels-not-shifted")
def nobody_shifts(place: Place) -> Sequence[CheckResult]:
    """The loop compares logits and labels position by position, and the labels stand in place."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    return audit_batch(
        batches(scored(samples(tokenizer, sums(place, 16))), tokenizer.pad_token_id), tokenizer, shifts="batch"
    )


@CASES.fault("torch", "batch", "labels-shifted-wrong-way")
def rolled_to_the_right(place: Place) -> Sequence[CheckResult]:
    """torch.roll(labels, 1): every position is asked for the token before it."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 8))), tokenizer.pad_token_id)
    batch["labels"] = torch.roll(batch["labels"], 1, dims=1)
    return audit_batch(batch, tokenizer, shifts="batch")


@CASES.fault("torch", "batch", "labels-misaligned")
def a_prefix_in_the_ids_alone(place: Place) -> Sequence[CheckResult]:
    """A system prompt is put before the ids after the labels were made; both are cut to one length."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    front = tokenizer("You are a careful tutor.\n", add_special_tokens=False).input_ids
    rows = [
        ((front + s.ids)[: len(s.ids)], [IGNORED] * len(s.prompt) + s.answer)
        for s in samples(tokenizer, sums(place, 12))
    ]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "labels-of-other-rows")
def ids_shuffled_and_labels_not(place: Place) -> Sequence[CheckResult]:
    """The ids are shuffled each epoch and the labels, kept in another array, are not."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    batch["input_ids"], batch["attention_mask"] = batch["input_ids"][order], batch["attention_mask"][order]
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "labels-not-inputs")
def noise_in_the_ids(place: Place) -> Sequence[CheckResult]:
    """15 % of the ids are replaced at random "as augmentation"; the labels keep the true ones."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    draw = torch.Generator().manual_seed(2)
    hit = (torch.rand(batch["input_ids"].shape, generator=draw) < 0.15) & batch["attention_mask"].bool()
    batch["input_ids"][hit] = torch.randint(300, 31000, (int(hit.sum()),), generator=draw)
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "all-masked-rows", beside=["answers-truncated"])
def prompts_fill_the_length(place: Place) -> Sequence[CheckResult]:
    """Rows are cut at 96 tokens; some prompts are longer, and nothing of their answers is left."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = [(s.ids[:96], s.labels[:96]) for s in samples(tokenizer, tasks(place, 16))]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "answer-start-not-scored", "all-masked-rows", "eos-not-scored")
def prompt_length_in_characters(place: Place) -> Sequence[CheckResult]:
    """The mask is as long as the prompt's text has characters, not tokens."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    pairs = [(f"### Instruction:\n{p[10:40]}\n\n### Response:\n", a.strip()) for p, a in sums(place, 12)]
    rows = []
    for (prompt, _), one in zip(pairs, samples(tokenizer, pairs), strict=True):
        hidden = min(len(prompt), len(one.ids))
        rows.append((one.ids, [IGNORED] * hidden + one.ids[hidden:]))
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "answer-start-not-scored")
def mask_of_the_prompt_with_its_end_token(place: Place) -> Sequence[CheckResult]:
    """The prompt is measured with the end token that the tokeniser adds: the answer's first token is masked."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    pairs = [(f"[INST] {p} [/INST]", a.strip()) for p, a in sums(place, 12)]
    rows = [(s.ids, [IGNORED] * (len(s.prompt) + 1) + s.answer[1:]) for s in samples(tokenizer, pairs)]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "mask-inverted")
def scored_where_it_should_be_masked(place: Place) -> Sequence[CheckResult]:
    """A mask that is 1 for the prompt is read as 1 for the answer."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows = [(s.ids, s.prompt + [IGNORED] * len(s.answer)) for s in samples(tokenizer, sums(place, 12))]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "prompt-in-loss")
def user_turns_scored_in_a_chat(place: Place) -> Sequence[CheckResult]:
    """A chat of three turns: only the first user turn is masked, the others are learned as if they were answers."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    rows = []
    for start in range(0, 24, 3):
        ids: list[int] = []
        hidden = 0
        for turn, (prompt, answer) in enumerate(sums(place, 3, start=start)):
            ids += tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
            hidden = len(ids) if turn == 0 else hidden
            ids += tokenizer(f"{answer}<|im_end|>\n").input_ids
        rows.append((ids, [IGNORED] * hidden + ids[hidden:]))
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer, learns="answers")
