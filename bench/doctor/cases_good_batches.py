"""Batches of good set-ups of many shapes: none of them may be called an error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq

from bench.doctor.case import Cases, Place
from bench.doctor.rows import IGNORED, Rows, batches, padded, samples, scored, stories, sums, tasks, tokenizer_of
from distillab.doctor import audit_batch
from distillab.records import CheckResult

CASES = Cases()


@CASES.good("torch", "batch")
def llama_answers_padded_right(place: Place) -> Sequence[CheckResult]:
    """The textbook: prompt masked, end token scored, padding masked."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    return audit_batch(
        batches(scored(samples(tokenizer, sums(place, 32))), tokenizer.pad_token_id), tokenizer, learns="answers"
    )


@CASES.good("torch", "batch")
def mistral_answers_padded_left(place: Place) -> Sequence[CheckResult]:
    """Left padding with rotary positions is sound."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows = scored(samples(tokenizer, tasks(place, 16)))
    return audit_batch(batches(rows, tokenizer.pad_token_id, side="left"), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def gpt2_pad_is_eos_and_the_end_is_scored(place: Place) -> Sequence[CheckResult]:
    """pad = eos, masked by length and not by id: the large vocabulary."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    return audit_batch(batches(scored(samples(tokenizer, sums(place, 24))), tokenizer.pad_token_id), tokenizer)


@CASES.good("torch", "batch")
def gpt2_padded_left_with_positions(place: Place) -> Sequence[CheckResult]:
    """Left padding with position ids that count from each row's first token."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id, side="left")
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return audit_batch(batch, tokenizer, absolute_positions=True)


@CASES.good("torch", "batch")
def windows_of_one_long_text(place: Place) -> Sequence[CheckResult]:
    """nanoGPT: x = data[i:i+L], y = data[i+1:i+1+L]; nothing shifts afterwards."""
    tokenizer = tokenizer_of(place, "tok512")
    data = torch.tensor(
        [token for text in stories(place, 40) for token in [1, *tokenizer(text, add_special_tokens=False).input_ids]]
    )
    starts = torch.randint(0, len(data) - 129, (16,), generator=torch.Generator().manual_seed(0)).tolist()
    return audit_batch(
        {
            "input_ids": torch.stack([data[i : i + 128] for i in starts]),
            "labels": torch.stack([data[i + 1 : i + 129] for i in starts]),
        },
        tokenizer,
        shifts="batch",
        learns="text",
    )


@CASES.good("torch", "batch")
def characters_of_a_tiny_vocabulary(place: Place) -> Sequence[CheckResult]:
    """105 characters, whole stories."""
    tokenizer = tokenizer_of(place, "tok105", pad="</s>")
    rows: Rows = []
    for text in stories(place, 16):
        ids = [1, *tokenizer(text[:200].replace("\n", " "), add_special_tokens=False).input_ids, 2]
        rows.append((ids, ids))
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer, learns="text")


@CASES.good("transformers", "batch")
def language_modelling_collator(place: Place) -> Sequence[CheckResult]:
    """transformers' collator on texts with a padding token of their own, through a DataLoader."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = [{"input_ids": [*tokenizer(text[:300]).input_ids, 2]} for text in stories(place, 24)]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return audit_batch(DataLoader(rows, batch_size=8, collate_fn=collate), tokenizer, learns="text")


@CASES.good("transformers", "batch")
def seq2seq_collator_for_answers(place: Place) -> Sequence[CheckResult]:
    """DataCollatorForSeq2Seq pads ids and labels of LLaMA-Factory-like rows, to a multiple of 8."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="</s>")
    rows = [{"input_ids": s.ids, "labels": s.labels} for s in samples(tokenizer, sums(place, 24))]
    collate = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8, label_pad_token_id=IGNORED)
    return audit_batch(DataLoader(rows, batch_size=8, collate_fn=collate), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def chats_of_three_turns(place: Place) -> Sequence[CheckResult]:
    """All assistant turns with their end are scored, nothing else."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    rows: Rows = []
    for start in range(0, 36, 3):
        ids: list[int] = []
        labels: list[int] = []
        for prompt, answer in sums(place, 3, start=start):
            front = tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
            back = tokenizer(f"{answer}<|im_end|>").input_ids
            newline = tokenizer("\n").input_ids
            ids += front + back + newline
            labels += [IGNORED] * len(front) + back + [IGNORED] * len(newline)
        rows.append((ids, labels))
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def packed_with_positions(place: Place) -> Sequence[CheckResult]:
    """Samples in one row; position ids start again at each, and each sample's first token is not scored."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = samples(tokenizer, sums(place, 10))
    batch = {
        "input_ids": [token for s in made for token in s.ids],
        "labels": [token for s in made for token in s.labels],
        "position_ids": [number for s in made for number in range(len(s.ids))],
    }
    return audit_batch({name: torch.tensor([row]) for name, row in batch.items()}, tokenizer)


@CASES.good("torch", "batch")
def packed_with_a_block_mask(place: Place) -> Sequence[CheckResult]:
    """Samples in one row with a mask of 1, 1, 1, 2, 2, 3, … as axolotl and LLaMA-Factory write it."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    made = samples(tokenizer, sums(place, 6))
    batch = {
        "input_ids": [token for s in made for token in s.ids],
        "labels": [token for s in made for token in s.labels],
        "attention_mask": [number for number, s in enumerate(made, start=1) for _ in s.ids],
        "position_ids": [number for s in made for number in range(len(s.ids))],
    }
    return audit_batch({name: torch.tensor([row]) for name, row in batch.items()}, tokenizer)


@CASES.good("torch", "batch")
def one_word_answers(place: Place) -> Sequence[CheckResult]:
    """A classifier's data: long prompts, an answer of a token or two and the end token."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    pairs = [(f"{p[:300]}\nIs this a question? Label:", " yes" if "?" in p else " no") for p, _ in tasks(place, 24)]
    return audit_batch(batches(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def answers_that_quote_their_prompts(place: Place) -> Sequence[CheckResult]:
    """Copying tasks: prompt and answer hold the same tokens, so that a wrong alignment looks near."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    pairs = [(f"Repeat: {a[:80]}\nRepeated:", f" {a[:80]}") for _, a in sums(place, 24)]
    return audit_batch(batches(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def some_answers_at_the_limit(place: Place) -> Sequence[CheckResult]:
    """A limit of 256 tokens that one row in thirty reaches."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = [(s.ids[:256], s.labels[:256]) for s in samples(tokenizer, sums(place, 64))]
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer)


@CASES.good("torch", "batch")
def a_padded_model_vocabulary(place: Place) -> Sequence[CheckResult]:
    """The output layer has 32,064 rows for 32,000 tokens, which is sound."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows = scored(samples(tokenizer, sums(place, 16)))
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer, vocabulary=32064)


@CASES.good("torch", "batch")
def text_in_another_language(place: Place) -> Sequence[CheckResult]:
    """Russian and Chinese in byte pieces of an English tokenizer: many short tokens, all of them right."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    pairs = [
        (f"Вопрос {n}: сколько будет {n} плюс {n}?\nОтвет:", f" Получится {2 * n}. 答案是{2 * n}。🙂")
        for n in range(3, 27)
    ]
    return audit_batch(batches(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer, learns="answers")
