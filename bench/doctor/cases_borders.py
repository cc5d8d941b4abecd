"""Masks, escapes, constants and losses that a written case shows best; near misses that are no fault."""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from bench.doctor.case import Cases, Place
from bench.doctor.loops import Loop, audit_log, run
from bench.doctor.rows import (
    IGNORED,
    Rows,
    audit_pairs,
    batches,
    chatml_tokenizer,
    padded,
    samples,
    scored,
    scored_logits,
    sums,
    tokenizer_of,
)
from distillab.doctor import audit_batch, audit_loss
from distillab.records import CheckResult

CASES = Cases()
CHATML = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
HEADER = "<|im_start|>assistant\n"
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def _chat(place: Place, template: str) -> tuple[PreTrainedTokenizerFast, Rows]:
    """ChatML with tokens of its own; the header of the answers is scored."""
    tokenizer = chatml_tokenizer(place)
    tokenizer.chat_template = template
    rows: Rows = []
    for prompt, answer in sums(place, 12):
        given = tokenizer(CHATML.format(prompt=prompt).removesuffix(HEADER)).input_ids
        learned = tokenizer(f"{HEADER}{answer.strip()}<|im_end|>", add_special_tokens=False).input_ids
        rows.append((given + learned, [IGNORED] * len(given) + learned))
    return tokenizer, rows


@CASES.fault("torch", "batch", "answer-header-scored")
def the_mask_ends_before_the_assistants_header(place: Place) -> Sequence[CheckResult]:
    """The response template is found, and what is scored begins with it instead of behind it."""
    tokenizer, rows = _chat(place, TEMPLATE + OPENING)
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


@CASES.good("torch", "batch")
def a_header_that_the_student_has_to_write(place: Place) -> Sequence[CheckResult]:
    """The template never ends a prompt with it."""
    tokenizer, rows = _chat(place, TEMPLATE)
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "prompt-end-scored")
def the_prompt_is_measured_without_its_begin_token(place: Place) -> Sequence[CheckResult]:
    """len(tokenizer(prompt, add_special_tokens=False)) tokens are masked: the last of the prompt is learned."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    rows = []
    for one in samples(tokenizer, sums(place, 12)):
        masked = len(one.prompt) - 1
        rows.append((one.ids, [IGNORED] * masked + one.ids[masked:]))
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "attention-mask-kind")
def the_mask_is_made_to_be_added(place: Place) -> Sequence[CheckResult]:
    """(1 - mask) * torch.finfo(dtype).min, kept in two dimensions."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), 0)
    batch["attention_mask"] = (1 - batch["attention_mask"].float()) * torch.finfo(torch.float32).min
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "attention-mask-looks-ahead")
def the_mask_of_an_encoder(place: Place) -> Sequence[CheckResult]:
    """(B, 1, 1, L), as BERT's extended mask: nothing in it is causal."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), 0)
    batch["attention_mask"] = batch["attention_mask"][:, None, None].bool()
    return audit_batch(batch, tokenizer)


@CASES.good("torch", "batch")
def a_causal_mask_that_is_added(place: Place) -> Sequence[CheckResult]:
    """(B, 1, L, L), 0 for what may be read."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 12))), 0)
    width = batch["input_ids"].shape[1]
    reads = torch.tril(torch.ones(width, width, dtype=torch.bool)) & batch["attention_mask"][:, None, None].bool()
    batch["attention_mask"] = torch.zeros(reads.shape).masked_fill(~reads, torch.finfo(torch.float32).min)
    return audit_batch(batch, tokenizer)


@CASES.fault("torch", "batch", "labels-misaligned")
def sixty_rows_and_short_answers_padded_on_two_sides(place: Place) -> Sequence[CheckResult]:
    """Every row is another number of positions away, and some labels are one word."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    pairs = [(p, " yes" if n % 4 == 0 else a) for n, (p, a) in enumerate(sums(place, 60))]
    rows = scored(samples(tokenizer, pairs))
    left, right = (padded(rows, 0, side=side) for side in ("left", "right"))
    return audit_batch(left | {"labels": right["labels"]}, tokenizer)


@CASES.fault("torch", "data", "duplicated-rows")
def one_shard_read_twice(place: Place) -> Sequence[CheckResult]:
    """A glob that matches a file and its copy."""
    return audit_pairs(place, sums(place, 120) * 2, sums(place, 40, start=200))


@CASES.fault("torch", "data", "answers-empty")
def answers_that_are_empty(place: Place) -> Sequence[CheckResult]:
    """A third of the answers were lost on the way."""
    rows = [(p, "" if n % 3 == 0 else a) for n, (p, a) in enumerate(sums(place, 150))]
    return audit_pairs(place, rows, sums(place, 40, start=200))


@CASES.fault("torch", "data", "text-escaped")
def answers_taken_from_web_pages(place: Place) -> Sequence[CheckResult]:
    """Entities were never turned back."""
    rows = [(p, html.escape(f'It\'s "{a.strip()}" & done').replace("\n", "&lt;br&gt;")) for p, a in sums(place, 150)]
    return audit_pairs(place, rows)


@CASES.fault("torch", "data", "text-escaped")
def line_ends_of_json_in_a_table(place: Place) -> Sequence[CheckResult]:
    """A line end is a backslash and an n."""
    return audit_pairs(place, [(p.replace("\n", "\\n"), a.strip().replace("\n", "\\n")) for p, a in sums(place, 150)])


@CASES.good("torch", "data")
def answers_about_web_pages(place: Place) -> Sequence[CheckResult]:
    """A tenth of the rows are code or speak of it."""
    web = ("How is an ampersand written in a web page?", "As `&amp;`:\n```html\n<p>Tom &amp; Jerry</p>\n```")
    sound = [(p, f"{a.strip()} ({n})") for n, (p, a) in enumerate(sums(place, 150))]
    return audit_pairs(place, [web if n % 10 == 0 else row for n, row in enumerate(sound)])


@CASES.fault("torch", "batch", "labels-shifted-wrong-way")
def rolled_to_the_right(place: Place) -> Sequence[CheckResult]:
    """torch.roll(labels, 1): every position is asked for the token before it."""
    tokenizer = tokenizer_of(place, "mistral-7b-v0.1", pad="<unk>")
    batch = padded(scored(samples(tokenizer, sums(place, 8))), 0)
    return audit_batch(batch | {"labels": batch["labels"].roll(1, 1)}, tokenizer, shifts="batch")


@CASES.fault(
    "torch", "loss", "loss-mixes-logs-and-probabilities", needs="nothing", beside=["loss-not-minimal-at-teacher"]
)
def raw_logits_as_target(place: Place) -> Sequence[CheckResult]:
    """log_target=True, and the teacher's logits were never normalised."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = scored_logits(student_logits, teacher_logits, labels)
        return functional.kl_div(s.log_softmax(-1), t, reduction="batchmean", log_target=True)

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-temperature-misplaced", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def temperature_after_the_softmax(place: Place) -> Sequence[CheckResult]:
    """log_softmax(s) / T is no log-probability."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
        s, t, _ = scored_logits(student_logits, teacher_logits, labels)
        return functional.kl_div(s.log_softmax(-1) / temperature, t.softmax(-1) / temperature, reduction="batchmean")

    return (audit_loss(loss, given="sequences"),)


def _table(place: Place, **columns: float) -> Sequence[CheckResult]:
    return audit_log(place, [row | columns for row in run(place, Loop(steps=60))], table=True)


@CASES.fault("torch", "run", "term-never-changes")
def the_part_of_the_teacher_is_a_constant(place: Place) -> Sequence[CheckResult]:
    """kd_loss was detached and cached at the first step."""
    return _table(place, kd_loss=1.3862943611198906)


@CASES.good("torch", "run")
def balance_of_experts_switched_off(place: Place) -> Sequence[CheckResult]:
    """aux_loss and its weight are 0, and the learning rate is constant."""
    return _table(place, aux_loss=0.0, aux_weight=0.0, learning_rate=3e-3)
