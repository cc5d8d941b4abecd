"""A plain training loop, as people write it, with switches for what people get wrong in it. It writes its own log."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.doctor.case import Place
from bench.doctor.rows import as_csv, as_json_lines, stories, tokenizer_of
from distillab.doctor import audit_run
from distillab.records import CheckResult

VOCABULARY = 512
LENGTH = 64
_HELD_OUT = 32


@dataclass(frozen=True)
class Loop:
    """A run. The defaults are a good one: from random weights, on stories, in 512 tokens.

    teacher: whose distributions are learned; "other tokens" has the same weights, and its ids mean other tokens.
    """

    steps: int = 120
    rate: float = 3e-3
    rows: int = 800
    batch_size: int = 8
    accumulate: int = 1
    undivided: bool = False
    schedule: Callable[[int], float] | None = None
    teacher: Literal["right", "other tokens"] | None = None
    evaluate_every: int = 10
    evaluates_a_copy: bool = False
    optimises_a_copy: bool = False
    sees_the_future: bool = False
    softmax_twice: bool = False
    initial_scale: float = 1.0
    broken_rows_every: int | None = None
    pretrained: bool = False
    seed: int = 0


def run(place: Place, loop: Loop) -> list[dict[str, float]]:
    """Train; the log, a row a step, with `eval_loss` (cross-entropy on other stories) now and then."""
    torch.manual_seed(loop.seed)
    ids_RL = _ids(place.material())
    train, held_out = ids_RL[_HELD_OUT : _HELD_OUT + loop.rows], ids_RL[:_HELD_OUT]
    student = _pretrained(place) if loop.pretrained else _student(loop.initial_scale)
    first = copy.deepcopy(student)
    trained = copy.deepcopy(student) if loop.optimises_a_copy else student
    optimizer = torch.optim.AdamW(trained.parameters(), lr=loop.rate)
    schedule = loop.schedule or (lambda step: min(1.0, (step + 1) / 10) * (1 - step / loop.steps))
    teacher = _teacher(place, loop.teacher) if loop.teacher else None
    draw = torch.Generator().manual_seed(loop.seed)
    log = []
    for step in range(loop.steps):
        total = 0.0
        for _ in range(loop.accumulate):
            chosen = torch.randint(0, len(train), (loop.batch_size // loop.accumulate,), generator=draw)
            ids_BL = train[chosen]
            if loop.broken_rows_every and step % loop.broken_rows_every == loop.broken_rows_every - 1:
                ids_BL = torch.randint(3, VOCABULARY, ids_BL.shape, generator=draw)
            loss = _loss(student, teacher, ids_BL, loop)
            loss = loss if loop.undivided else loss / loop.accumulate
            loss.backward()
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0))
        if loop.optimises_a_copy:
            student.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = loop.rate * schedule(step)
        optimizer.step()
        optimizer.zero_grad()
        row = {"step": float(step + 1), "loss": total, "grad_norm": norm, "learning_rate": loop.rate * schedule(step)}
        if (step + 1) % loop.evaluate_every == 0:
            row["eval_loss"] = _evaluate(first if loop.evaluates_a_copy else student, held_out, loop)
        log.append(row)
    return log


def audit_log(place: Place, log: list[dict[str, float]], *, table: bool = False) -> Sequence[CheckResult]:
    """What the doctor says of the log of a student that began with random weights."""
    path = as_csv(log, place.scratch / "log.csv") if table else as_json_lines(log, place.scratch / "log.jsonl")
    return audit_run(path, vocabulary=VOCABULARY, random_student=True).checks


def cosine(steps: int) -> Callable[[int], float]:
    """torch's CosineAnnealingLR(T_max=steps), which rises again when it is stepped further."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(student: LlamaForCausalLM, teacher: LlamaForCausalLM | None, ids_BL: Tensor, loop: Loop) -> Tensor:
    logits = student(input_ids=ids_BL, attention_mask=_mask(ids_BL, loop)).logits[:, :-1].flatten(0, 1)
    if teacher is not None:
        with torch.no_grad():
            theirs = teacher(input_ids=ids_BL).logits[:, :-1].flatten(0, 1)
        if loop.teacher == "other tokens":
            theirs = theirs[:, _order()]
        return functional.kl_div(logits.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    scores = logits.softmax(-1) if loop.softmax_twice else logits
    return functional.cross_entropy(scores, ids_BL[:, 1:].flatten())


@torch.no_grad()
def _evaluate(student: LlamaForCausalLM, ids_BL: Tensor, loop: Loop) -> float:
    logits = student(input_ids=ids_BL, attention_mask=_mask(ids_BL, loop)).logits[:, :-1].flatten(0, 1)
    scores = logits.softmax(-1) if loop.softmax_twice else logits
    return float(functional.cross_entropy(scores, ids_BL[:, 1:].flatten()))


def _mask(ids_BL: Tensor, loop: Loop) -> Tensor | None:
    """None: causal. A four-dimensional mask is taken as it is: with zeros every position sees every other one."""
    rows, length = ids_BL.shape
    return torch.zeros(rows, 1, length, length) if loop.sees_the_future else None


@cache
def _ids(materials: Path) -> Tensor:
    tokenizer = tokenizer_of(Place(materials, materials), "tok512")
    texts = stories(Place(materials, materials), 400)
    long = [token for text in texts for token in [1, *tokenizer(text, add_special_tokens=False).input_ids]]
    return torch.tensor(long[: len(long) // LENGTH * LENGTH]).view(-1, LENGTH)


def _student(scale: float) -> LlamaForCausalLM:
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        student.lm_head.weight *= scale
    return student


def _pretrained(place: Place) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(place.material("models", "llama2xs-tok512"))


def _teacher(place: Place, kind: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(place.material("models", "stories260K-tok512")).eval()


@cache
def _order() -> Tensor:
    """Ids in another order: a tokenizer of the same size and the same tokens, numbered otherwise."""
    return torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(5))
