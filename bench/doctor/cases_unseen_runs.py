"""Losses, logs, pairs and rows that no check was tuned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.doctor.case import Cases, Place
from bench.doctor.cases_unseen import requests
from bench.doctor.loops import VOCABULARY, Loop, audit_log, run
from bench.doctor.rows import IGNORED, Pairs, audit_pairs, stories, sums, tasks, tokenizer_of
from distillab.doctor import audit_loss, audit_pair, audit_run, audit_signal
from distillab.records import CheckResult

CASES = Cases()
Log = list[dict[str, float]]


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each place: (..., V) → (...)."""
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _shifted(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, L − 1, V) of both, labels (B, L − 1), and where they are scored."""
    return student_logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:], labels[:, 1:] != IGNORED


# ---------------------------------------------------------------- losses


@CASES.fault("torch", "loss", "loss-divides-by-unscored-positions", needs="nothing")
def logits_set_to_zero_where_nothing_is_scored(place: Place) -> Sequence[CheckResult]:
    """Both are uniform there, so their divergence is 0; but batchmean of the flat logits counts these places."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits, labels)
        s, t = (s * keep.unsqueeze(-1)).flatten(0, 1), (t * keep.unsqueeze(-1)).flatten(0, 1)
        return functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-temperature-in-hard-part", needs="nothing")
def both_parts_times_the_temperature_squared(place: Place) -> Sequence[CheckResult]:
    """The bracket stands around both parts; T² belongs to the soft one."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0) -> Tensor:
        s, t, y, keep = _shifted(student_logits, teacher_logits, labels)
        soft = _kl(s[keep] / temperature, t[keep] / temperature).mean()
        return (0.5 * soft + 0.5 * functional.cross_entropy(s[keep], y[keep])) * temperature**2

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-another-divergence", needs="nothing")
def mixture_of_logarithms(place: Place) -> Sequence[CheckResult]:
    """Jensen-Shannon with (log p + log q) / 2 for the mixture's logarithm: it is a quarter of Jeffreys' divergence."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits, labels)
        p, q = t[keep].log_softmax(-1), s[keep].log_softmax(-1)
        middle = (p + q) / 2
        return 0.5 * ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)).mean()

    return (audit_loss(loss, given="sequences", expects="jensen_shannon"),)


@CASES.fault("torch", "loss", "loss-blind-to-token-identity", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def each_side_has_its_own_top_tokens(place: Place) -> Sequence[CheckResult]:
    """The eight likeliest of either side are compared by rank; which tokens they are is dropped."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits, labels)
        return _kl(s[keep].topk(8, -1).values, t[keep].topk(8, -1).values).mean()

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-ignores-teacher", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def estimate_of_the_divergence_taken_for_a_loss(place: Place) -> Sequence[CheckResult]:
    """log q(y) − log p(y) estimates KL(student ‖ teacher); differentiated as it is, the teacher falls out of it."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, y, keep = _shifted(student_logits, teacher_logits, labels)
        at = y[keep].unsqueeze(-1)
        return (s[keep].log_softmax(-1).gather(-1, at) - t[keep].log_softmax(-1).gather(-1, at)).mean()

    return (audit_loss(loss, given="sequences"),)


# The rows have other lengths, so the teacher's padding is really read.
_ROWS_BRING = ["loss-not-minimal-at-teacher", "loss-counts-padding"]


@CASES.fault("torch", "loss", "loss-reads-teacher-elsewhere", needs="nothing", beside=_ROWS_BRING)
def teachers_rows_come_back_in_another_order(place: Place) -> Sequence[CheckResult]:
    """Asked longest first, and never sorted back: here the last row first."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits.flip(0), labels)
        return _kl(s[keep], t[keep]).mean()

    return (audit_loss(loss, given="sequences"),)


@CASES.fault("torch", "loss", "loss-not-repeatable", needs="nothing", beside=["loss-not-minimal-at-teacher"])
def functional_dropout_is_never_off(place: Place) -> Sequence[CheckResult]:
    """functional.dropout knows no eval mode: its `training` is True by default."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(functional.dropout(student_logits, 0.1), teacher_logits, labels)
        return _kl(s[keep], t[keep]).mean()

    return (audit_loss(loss, given="sequences"),)


@CASES.good("torch", "loss", needs="nothing")
def a_mean_of_each_sequence_and_then_of_the_batch(place: Place) -> Sequence[CheckResult]:
    """Short answers weigh as much as long ones; some want it so."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits, labels)
        return ((_kl(s, t) * keep).sum(-1) / keep.sum(-1).clamp(min=1)).mean()

    return (audit_loss(loss, given="sequences"),)


@CASES.good("torch", "loss", needs="nothing")
def sure_positions_weigh_more(place: Place) -> Sequence[CheckResult]:
    """Each position by the teacher's highest probability, a weighted mean."""

    def loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        s, t, _, keep = _shifted(student_logits, teacher_logits, labels)
        weight = t.softmax(-1).amax(-1).detach() * keep
        return (_kl(s, t) * weight).sum() / weight.sum().clamp(min=1e-6)

    return (audit_loss(loss, given="sequences"),)


# ---------------------------------------------------------------- runs


def _looped(place: Place, mistake: Literal["a batch without a label", "gradients are never cleared"]) -> Log:
    """A plain loop on stories, from random weights, with one mistake in it."""
    torch.manual_seed(1)
    tokenizer = tokenizer_of(place, "tok512")
    stream = [i for text in stories(place, 300) for i in [1, *tokenizer(text, add_special_tokens=False).input_ids]]
    ids = torch.tensor(stream[: len(stream) // 64 * 64]).view(-1, 64)
    held_out, train = ids[:24], ids[24:]
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    student = LlamaForCausalLM(shape)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    log: Log = []
    for step in range(1, 101):
        batch = train[torch.randint(0, len(train), (8,))]
        labels = batch.clone()
        if mistake == "a batch without a label" and step == 40:
            labels[:] = IGNORED
        loss = student(input_ids=batch, labels=labels).loss
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in student.parameters() if p.grad is not None]).norm()
        optimizer.step()
        if mistake != "gradients are never cleared":
            optimizer.zero_grad()
        log.append({"step": step, "loss": float(loss.detach()), "grad_norm": float(norm), "learning_rate": 2e-3})
        if step % 20 == 0:
            with torch.no_grad():
                log[-1]["eval_loss"] = float(student(input_ids=held_out, labels=held_out).loss)
    return log


def _every_tenth(log: Log, tell: Callable[[list[float]], float]) -> Log:
    """A line for ten steps; its loss is told from theirs."""
    return [{**log[i], "loss": tell([row["loss"] for row in log[i - 9 : i + 1]])} for i in range(9, len(log), 10)]


# The last id did not exist at the first run.
@CASES.fault("torch", "run", "learning-rate-too-low", "loss-flat-near-uniform", "schedule-decays-too-early")
def decay_of_an_epoch_taken_at_every_step(place: Place) -> Sequence[CheckResult]:
    """ExponentialLR(gamma=0.9).step() stands inside of the inner loop: after 40 steps the rate is gone."""
    return audit_log(place, run(place, Loop(schedule=lambda step: 0.9**step)))


@CASES.fault("torch", "run", "accumulation-rescales", "initial-loss-far-from-uniform")
def ten_steps_summed_and_never_divided(place: Place) -> Sequence[CheckResult]:
    """running += loss.item(), told and cleared every ten steps."""
    return audit_log(place, _every_tenth(run(place, Loop(steps=200)), sum))


@CASES.fault("torch", "run", "loss-not-finite", "gradient-not-finite")
def a_batch_with_nothing_to_score(place: Place) -> Sequence[CheckResult]:
    """The mean over no label is NaN; so are the weights from then on."""
    return audit_log(place, _looped(place, "a batch without a label"), table=True)


@CASES.fault("torch", "run", "gradient-explodes", "loss-diverges")
def gradients_are_never_cleared(place: Place) -> Sequence[CheckResult]:
    """optimizer.zero_grad() is missing, and nothing is clipped."""
    return audit_log(place, _looped(place, "gradients are never cleared"))


@CASES.fault(
    "torch", "run", "held-out-above-uniform", "accumulation-rescales", beside=["held-out-worse-than-untrained"]
)
def held_out_batches_summed_and_never_divided(place: Place) -> Sequence[CheckResult]:
    """Four held-out batches; their losses are added up."""
    log = run(place, Loop())
    return audit_log(place, [{**row, "eval_loss": 4 * row["eval_loss"]} if "eval_loss" in row else row for row in log])


@CASES.good("torch", "run")
def printed_by_transformers_with_a_late_decay(place: Place) -> Sequence[CheckResult]:
    """A pretrained student, warmed up, held, decayed at the end; a line for ten steps, as a Trainer prints it."""
    held_then_down = Loop(150, 5e-4, pretrained=True, schedule=lambda step: min(1, (step + 1) / 15, (150 - step) / 30))
    lines = []
    for row in _every_tenth(run(place, held_then_down), lambda losses: sum(losses) / len(losses)):
        epoch = round(row["step"] / 100, 2)
        told = {name: round(row[name], 6) for name in ("loss", "grad_norm", "learning_rate")}
        lines += [str({**told, "epoch": epoch}), str({"eval_loss": row["eval_loss"], "epoch": epoch})]
    path = place.scratch / "train.log"
    path.write_text("\n".join(lines), encoding="utf-8")
    return audit_run(path, vocabulary=VOCABULARY, random_student=False).checks


# ---------------------------------------------------------------- pairs and rows


def _uneven(place: Place, *, teacher_pads_left: bool) -> Sequence[CheckResult]:
    """Rows of 20 to 64 tokens, padded on the right for the student; the teacher's logits as it was asked."""
    tokenizer = tokenizer_of(place, "tok512")
    rows = [[1, *tokenizer(text, add_special_tokens=False).input_ids] for text in stories(place, 24)]
    rows = [row[: 20 + (i * 17) % 45] for i, row in enumerate(rows)]
    ids, asked, mask = torch.zeros(24, 64, dtype=torch.long), torch.zeros(24, 64, dtype=torch.long), torch.zeros(24, 64)
    attended = torch.zeros(24, 64, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, 1 : len(row)] = 1
        place_of = slice(64 - len(row), 64) if teacher_pads_left else slice(0, len(row))
        asked[i, place_of] = torch.tensor(row)
        attended[i, place_of] = 1
    model = AutoModelForCausalLM.from_pretrained(place.material("models", "stories260K-tok512")).eval()
    with torch.no_grad():
        logits = model(input_ids=asked, attention_mask=attended).logits
    return (audit_signal(logits, ids, mask=mask.bool()),)


@CASES.fault("torch", "pair", "teacher-signal-shifted", "teacher-signal-unrelated")
def teacher_pads_left_and_student_right(place: Place) -> Sequence[CheckResult]:
    """The teacher is asked in batches made for generation: each row's signal is off by its own padding."""
    return _uneven(place, teacher_pads_left=True)


@CASES.good("torch", "pair")
def rows_of_uneven_length(place: Place) -> Sequence[CheckResult]:
    """The same, both padded on the right."""
    return _uneven(place, teacher_pads_left=False)


@CASES.fault("torch", "pair", "teacher-below-student")
def teacher_and_student_exchanged(place: Place) -> Sequence[CheckResult]:
    """The two folders are given in the wrong order."""
    models = place.material("models")
    data = str(place.material("text", "tinystories", "stories_dev.jsonl"))
    return audit_pair(str(models / "llama2xs-tok512"), str(models / "bitllama-3M-tok512"), data).checks


def _stripped(pairs: Pairs) -> Pairs:
    return [(prompt, answer.strip()) for prompt, answer in pairs]


@CASES.fault("torch", "data", "answers-of-other-prompts")
def answers_joined_one_line_off(place: Place) -> Sequence[CheckResult]:
    """One of the two files that were joined by their line had a header."""
    pairs = sums(place, 300)
    train = [(prompt, answer) for (prompt, _), (_, answer) in zip(pairs[1:], pairs, strict=False)]
    return audit_pairs(place, _stripped(train), _stripped(sums(place, 60, start=320)))


@CASES.good("torch", "data")
def instructions_judged_by_another_source(place: Place) -> Sequence[CheckResult]:
    """Dolly to learn from, Self-Instruct's seeds to judge by; many answers are a word or two."""
    return audit_pairs(place, _stripped(tasks(place, 300)), _stripped(requests(place, 120)), "mistral-7b-v0.1")
