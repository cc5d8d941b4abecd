"""Good batches of shapes that the drawn ones do not have: none of them may be called an error."""

from __future__ import annotations

import ast
import heapq
import inspect
import statistics
import textwrap
from collections.abc import Sequence

from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, DataCollatorWithFlattening

from bench.doctor.case import Cases, Place
from bench.doctor.rows import IGNORED, Rows, batches, padded, samples, scored, stories, sums, tasks, tokenizer_of
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


def functions() -> list[tuple[str, str]]:
    """Functions of Python's own library: the head with its description, and the body."""
    pairs = []
    for module in (textwrap, statistics, heapq):
        lines = inspect.getsource(module).splitlines(keepends=True)
        for node in ast.parse("".join(lines)).body:
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                head, body = node.body[0].end_lineno, node.end_lineno
                pairs.append(("".join(lines[node.lineno - 1 : head]), "".join(lines[head:body])))
    return pairs


@CASES.good("torch", "batch")
def code_one_row_a_batch(place: Place) -> Sequence[CheckResult]:
    """A function's head and description is the prompt, its body the answer: indentation, brackets, line breaks."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    rows = scored(samples(tokenizer, functions()[:32]))
    return audit_batch([padded([row], 0) for row in rows], tokenizer, learns="answers")


@CASES.good("transformers", "batch")
def flattened_by_the_collator(place: Place) -> Sequence[CheckResult]:
    """DataCollatorWithFlattening: one row, no padding, no mask, positions that begin again."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b")
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in scored(samples(tokenizer, sums(place, 24)))]
    collate = DataCollatorWithFlattening()
    return audit_batch([collate(rows[at : at + 6]) for at in range(0, 24, 6)], tokenizer, learns="answers")
