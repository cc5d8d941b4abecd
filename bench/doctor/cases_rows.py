"""Faults of a plain torch loop: padding, ends, packing, ids and templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from bench.doctor.case import Cases, Place
from bench.doctor.rows import IGNORED, Rows, batches, padded, samples, scored, stories, sums, tasks, tokenizer_of
from distillab.doctor import audit_batch
from distillab.records import CheckResult

CASES = Cases()
CHATML = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@CASES.fault("torch", "batch", "padding-side")
def gpt2_padded_left_without_positions(place: Place) -> Sequence[CheckResult]:
    """A model with learned positions that counts from the row's first token, padded on the left."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    rows = scored(samples(tokenizer, sums(place, 12)))
    return audit_batch(batches(rows, tokenizer.pad_token_id, side="left"), tokenizer, absolute_positions=True)


@CASES.fault("torch", "batch", "answers-truncated")
def answers_cut_at_the_length(place: Place) -> Sequence[CheckResult]:
    """Rows are cut at 128 tokens: of the longer ones the end, and the end token, are gone."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = [(s.ids[:128], s.labels[:128]) for s in samples(tokenizer, sums(place, 32))]
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "packed-without-boundaries")
def samples_run_together(place: Place) -> Sequence[CheckResult]:
    """Samples fill rows of 256 tokens, end token between them, and each reads the ones before it."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    ids: list[int] = []
    labels: list[int] = []
    for one in samples(tokenizer, sums(place, 40)):
        ids, labels = ids + one.ids, labels + one.labels
    rows = [(ids[start : start + 256], labels[start : start + 256]) for start in range(0, 8 * 256, 256)]
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "padding-attended")
def attention_over_the_padding(place: Place) -> Sequence[CheckResult]:
    """attention_mask = torch.ones_like(input_ids), padded on the left."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id, side="left")
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "attention-mask-inverted")
def one_means_padding(place: Place) -> Sequence[CheckResult]:
    """A key_padding_mask of torch (True is padding) is given to a model of transformers (1 is text)."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    batch["attention_mask"] = (batch["input_ids"] == tokenizer.pad_token_id).long()
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "tokens-hidden")
def end_tokens_hidden_by_their_id(place: Place) -> Sequence[CheckResult]:
    """attention_mask = input_ids != pad with pad = eos, in chats of two turns: each turn's end is hidden."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="</s>")
    made = samples(tokenizer, sums(place, 16))
    rows = [(a.ids + b.ids[1:], a.labels + b.labels[1:]) for a, b in zip(made[::2], made[1::2], strict=True)]
    batch = padded(rows, tokenizer.pad_token_id)
    batch["attention_mask"] = (batch["input_ids"] != tokenizer.pad_token_id).long()
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "duplicated-rows")
def drawn_with_replacement(place: Place) -> Sequence[CheckResult]:
    """The sampler draws with replacement from too few rows."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    rows = scored(samples(tokenizer, sums(place, 12)))
    drawn = torch.randint(0, 12, (32,), generator=torch.Generator().manual_seed(3)).tolist()
    return audit_batch(batches([rows[place] for place in drawn], tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "ids-of-another-tokenizer")
def tokenised_with_the_teachers_tokenizer(place: Place) -> Sequence[CheckResult]:
    """The student is TinyLlama; the rows were tokenised with Mistral's 32,000 ids."""
    theirs, ours = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>"), tokenizer_of(place, "tinyllama-1.1b")
    return audit_batch(batches(scored(samples(theirs, sums(place, 24))), theirs.pad_token_id), ours, vocabulary=32000)


@CASES.fault("torch", "batch", "markers-in-pieces")
def chat_markers_that_are_no_tokens(place: Place) -> Sequence[CheckResult]:
    """ChatML on a base tokenizer to which nobody has added its markers."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    pairs = [(CHATML.format(prompt=p), f"{a}<|im_end|>") for p, a in sums(place, 12)]
    return audit_batch(padded(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "template-of-another-family")
def llama_wording_for_a_chatml_student(place: Place) -> Sequence[CheckResult]:
    """The student's tokenizer has ChatML's markers and template; the rows are in [INST] … [/INST]."""
    tokenizer = _with_chatml(tokenizer_of(place, "gpt2", pad="<|pad|>"))
    pairs = [(f"[INST] {p} [/INST]", a) for p, a in sums(place, 12)]
    return audit_batch(padded(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "ids-outside-vocabulary")
def a_new_padding_token_without_a_row(place: Place) -> Sequence[CheckResult]:
    """A padding token is added to the tokenizer, and the embeddings are not made longer."""
    tokenizer = tokenizer_of(place, "gpt2", pad="[PAD]")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id)
    return audit_batch(batch, tokenizer, vocabulary=50257)


@CASES.fault("torch", "batch", "unknown-tokens")
def text_that_the_vocabulary_does_not_know(place: Place) -> Sequence[CheckResult]:
    """Worked sums in a vocabulary of 105 characters of children's stories."""
    tokenizer = tokenizer_of(place, "tok105", pad="</s>")
    pairs = [(f"{a}\n", "Задача решена: 42.") for _, a in sums(place, 12)]
    return audit_batch(padded(scored(samples(tokenizer, pairs)), tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "eos-missing")
def no_end_token(place: Place) -> Sequence[CheckResult]:
    """Nobody appends the end token: the student never learns to stop."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows = scored(samples(tokenizer, sums(place, 24), eos=False))
    return audit_batch(batches(rows, tokenizer.pad_token_id), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "double-bos")
def begin_token_of_template_and_tokenizer(place: Place) -> Sequence[CheckResult]:
    """The template writes <s>, and the tokenizer adds its own."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows: Rows = []
    for prompt, answer in sums(place, 12):
        front = tokenizer(f"<s>[INST] {prompt} [/INST]").input_ids
        ids = tokenizer(f"<s>[INST] {prompt} [/INST]{answer}</s>").input_ids
        rows.append((ids, [IGNORED] * len(front) + ids[len(front) :]))
    return audit_batch(padded(rows, tokenizer.pad_token_id), tokenizer)


@CASES.fault("torch", "batch", "bos-missing")
def no_begin_token(place: Place) -> Sequence[CheckResult]:
    """add_special_tokens=False for a model that has never seen a text without its begin token."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    return audit_batch(padded(scored(samples(tokenizer, sums(place, 12), bos=False)), 0), tokenizer)


@CASES.fault("torch", "batch", "positions-wrong")
def positions_of_rows_that_were_cut(place: Place) -> Sequence[CheckResult]:
    """Packed rows whose position ids start again where samples ended before they were cut to 60 tokens."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    made = samples(tokenizer, [(text[:20], text[20:400]) for text in stories(place, 8)])
    ids = [token for one in made for token in one.ids[:60]]
    labels = [token for one in made for token in one.labels[:60]]
    counted = [number for one in made for number in range(len(one.ids))][: len(ids)]
    batch = {name: torch.tensor([values]) for name, values in (("input_ids", ids), ("labels", labels))}
    return audit_batch({**batch, "position_ids": torch.tensor([counted])}, tokenizer)


@CASES.fault("torch", "batch", "positions-wrong", "padding-side")
def positions_that_count_the_padding(place: Place) -> Sequence[CheckResult]:
    """Left padding with position_ids = arange: GPT-2's learned positions are those of the padding too."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|endoftext|>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), tokenizer.pad_token_id, side="left")
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"]).clone()
    return audit_batch(batch, tokenizer, absolute_positions=True)


@CASES.fault("torch", "batch", "sample-start-scored")
def first_tokens_of_packed_texts_scored(place: Place) -> Sequence[CheckResult]:
    """Packed texts with position ids; each text's begin token is predicted from the text before it."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    texts = [
        [tokenizer.bos_token_id, *tokenizer(t[:300], add_special_tokens=False).input_ids, 2] for t in stories(place, 8)
    ]
    ids = torch.tensor([[token for text in texts for token in text]])
    counted = torch.tensor([[number for text in texts for number in range(len(text))]])
    return audit_batch({"input_ids": ids, "labels": ids.clone(), "position_ids": counted}, tokenizer, learns="text")


@CASES.fault("torch", "batch", "eos-missing", "eos-not-scored")
def end_token_masked_with_the_padding(place: Place) -> Sequence[CheckResult]:
    """labels[length - 1:] = -100: the last token of every answer is masked as if it were padding."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = [(s.ids, [*s.labels[:-1], IGNORED]) for s in samples(tokenizer, tasks(place, 16))]
    return audit_batch(batches(rows, 0), tokenizer, learns="answers")


def _with_chatml(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer
