"""Fifteen faults that no check had seen. Six were found at the first run; docs/doctor/how-good.md says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    tasks,
    tokenizer_of,
)
from distillab.doctor import audit_batch, audit_loss
from distillab.records import CheckResult

CASES = Cases()
Part = tuple[str, bool]
Row = dict[str, float]


def _row(tokenizer: PreTrainedTokenizerFast, parts: Sequence[Part]) -> tuple[list[int], list[int]]:
    """Texts, each with whether it is scored."""
    ids, labels = [1], [IGNORED]
    for text, learned in parts:
        piece = tokenizer(text, add_special_tokens=False).input_ids
        ids, labels = ids + piece, labels + (piece if learned else [IGNORED] * len(piece))
    return ids, labels


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


# ---------------------------------------------------------------- batches


@CASES.fault("torch", "batch", "prompt-in-loss")
def the_system_turn_is_scored(place: Place) -> Sequence[CheckResult]:
    """The mask begins at the first user turn; what the system says is learned in every row."""
    tokenizer = chatml_tokenizer(place)
    system = _turn("system", "You are a patient teacher. Work step by step, and give the result behind four signs.")
    rows = [
        _row(
            tokenizer,
            [(system, True), (_turn("user", p) + "<|im_start|>assistant\n", False), (f"{a.strip()}<|im_end|>", True)],
        )
        for p, a in sums(place, 16)
    ]
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "prompt-in-loss")
def what_the_tool_returned_is_scored(place: Place) -> Sequence[CheckResult]:
    """Everything behind the first answer is learned, the results of the calculator too."""
    tokenizer = chatml_tokenizer(place)
    rows = []
    for number, (p, a) in enumerate(sums(place, 16)):
        tool = _turn("tool", f"result = {number * 37}; unit = apples; source = calculator, checked twice by hand")
        given = _turn("user", p) + "<|im_start|>assistant\n"
        rows.append(
            _row(
                tokenizer,
                [
                    (given, False),
                    (f"calculate({number} * 37)<|im_end|>\n", True),
                    (tool, True),
                    ("<|im_start|>assistant\n", False),
                    (f"{a.strip()}<|im_end|>", True),
                ],
            )
        )
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


@CASES.fault("torch", "batch", "tokens-hidden", "padding-attended", beside=["padding-side"])
def the_mask_lies_on_the_other_side_than_the_padding(place: Place) -> Sequence[CheckResult]:
    """ids are padded left, and the attention mask right."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows = scored(samples(tokenizer, sums(place, 12)))
    left, right = (padded(rows, 0, side=side) for side in ("left", "right"))
    return audit_batch(left | {"attention_mask": right["attention_mask"]}, tokenizer)


@CASES.fault("torch", "batch", "positions-wrong")
def positions_run_on_through_the_batch(place: Place) -> Sequence[CheckResult]:
    """torch.arange(B * L).view(B, L): only the first row begins at 0."""
    tokenizer = tokenizer_of(place, "gpt2", pad="<|pad|>")
    assert tokenizer.pad_token_id is not None
    batch = padded(scored(samples(tokenizer, sums(place, 8))), tokenizer.pad_token_id)
    places = torch.arange(batch["input_ids"].numel()).view_as(batch["input_ids"])
    return audit_batch(batch | {"position_ids": places}, tokenizer, absolute_positions=True)


@CASES.fault("torch", "batch", "answer-start-not-scored", "answers-one-token")
def the_end_token_alone_is_scored(place: Place) -> Sequence[CheckResult]:
    """labels[labels != eos] = -100, where == was meant."""
    tokenizer = tokenizer_of(place, "tinyllama-1.1b", pad="<unk>")
    rows: Rows = [(s.ids, [IGNORED] * (len(s.ids) - 1) + s.ids[-1:]) for s in samples(tokenizer, tasks(place, 16))]
    return audit_batch(batches(rows, 0, size=4), tokenizer, learns="answers")


# ---------------------------------------------------------------- logs


def _log(place: Place, change: Callable[[int, Row], Row]) -> Sequence[CheckResult]:
    """A sound run as CSV, each row changed."""
    rows = [change(n, dict(row)) for n, row in enumerate(run(place, Loop(steps=80)))]
    return audit_log(place, rows, table=True)


@CASES.fault("torch", "run", "loss-not-finite")
def one_part_is_not_a_number(place: Place) -> Sequence[CheckResult]:
    """nan_to_num stands around the part of the teacher: the sum is finite, the part is NaN from step 30 on."""
    return _log(place, lambda n, row: row | {"kd_loss": row["loss"] * 0.4 if n < 30 else float("nan")})


@CASES.fault("torch", "run", "term-without-effect")
def the_part_is_computed_and_never_added(place: Place) -> Sequence[CheckResult]:
    """total = ce_loss; the part of the teacher is logged and forgotten."""
    return _log(place, lambda n, row: row | {"ce_loss": row["loss"], "kd_loss": 0.4 + 0.3 * ((n * 7) % 11) / 11})


@CASES.fault(
    "torch", "run", "loss-negative", beside=["initial-loss-far-from-uniform", "loss-too-good", "loss-diverges"]
)
def a_loss_below_zero(place: Place) -> Sequence[CheckResult]:
    """The mean log-probability, with its sign lost on the way to the log."""
    return _log(place, lambda n, row: {name: -value if "loss" in name else value for name, value in row.items()})


@CASES.fault("torch", "run", "evaluation-is-training")
def the_training_batch_is_evaluated(place: Place) -> Sequence[CheckResult]:
    """eval_loss is the loss of the batch that was just trained on, to the last digit."""
    return _log(place, lambda n, row: {name: row["loss"] if name == "eval_loss" else v for name, v in row.items()})


# ---------------------------------------------------------------- losses


@CASES.fault("torch", "loss", "loss-without-gradient", "loss-not-minimal-at-teacher", needs="nothing")
def large_errors_are_cut_off(place: Place) -> Sequence[CheckResult]:
    """clamp(max=0.05) on each position against spikes: what is worse than that has no gradient."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = scored_logits(student_logits, teacher_logits, labels)
        each = functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
        return each.clamp(max=0.05).mean()

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-drops-teacher-tail", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def the_teachers_likeliest_token_is_the_label(place: Place) -> Sequence[CheckResult]:
    """cross_entropy(student, teacher.argmax): called distillation, and reads one token of the teacher."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _ = scored_logits(student_logits, teacher_logits, labels)
        return functional.cross_entropy(s, t.argmax(-1))

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-not-repeatable", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def the_temperature_falls_with_every_call(place: Place) -> Sequence[CheckResult]:
    """Annealed by counting calls: evaluation and accumulation count too."""
    calls = [0]

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        calls[0] += 1
        temperature = 1 + 4 * 0.97 ** calls[0]
        s, t, _ = scored_logits(student_logits / temperature, teacher_logits / temperature, labels)
        return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")

    return (audit_loss(loss, given="sequences"),)


# ---------------------------------------------------------------- rows


@CASES.fault("torch", "data", "texts-cut-at-length")
def answers_cut_at_a_number_of_characters(place: Place) -> Sequence[CheckResult]:
    """A column of 200 characters: the answers end where it ends."""
    return audit_pairs(place, [(p, a.strip()[:200]) for p, a in sums(place, 200)])


@CASES.fault("torch", "data", "markers-in-text")
def the_next_turn_in_words(place: Place) -> Sequence[CheckResult]:
    """A transcript that was split at the first turn only: the answers go on with the user's next question."""
    pairs = sums(place, 200)
    questions = [p.removeprefix("Question: ").removesuffix("\nAnswer:") for p, _ in pairs]
    rows = [
        (question, f"{a.strip()}\n\nUser: {questions[n - 1]}\n\nAssistant: {pairs[n - 1][1].strip()}")
        for n, (question, (_, a)) in enumerate(zip(questions, pairs, strict=True))
    ]
    return audit_pairs(place, rows)


@CASES.fault("torch", "data", "answers-of-other-prompts")
def every_answer_one_row_late(place: Place) -> Sequence[CheckResult]:
    """Two files were read side by side, and one of them has a heading."""
    pairs = sums(place, 200)
    return audit_pairs(place, [(p, pairs[n - 1][1].strip()) for n, (p, _) in enumerate(pairs)])
