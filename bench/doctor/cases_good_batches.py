"""Good batches of shapes that the drawn ones do not have: none of them may be called an error."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq

from bench.doctor.case import Cases, Place
from bench.doctor.rows import IGNORED, Rows, batches, samples, scored, stories, sums, tasks, tokenizer_of
from distillab.doctor import audit_batch
from distillab.records import CheckResult

CASES = Cases()


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
