"""A teacher's signal at the tokens of stories; a fault puts it elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.doctor.case import Place
from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.rows import stories, tokenizer_of
from distillab.doctor import audit_signal
from distillab.records import CheckResult

RULES: Mutations[Signal] = Mutations()


@dataclass(frozen=True)
class Signal:
    """A teacher's logits at the tokens of stories. of_logits: changes to (B, L, V)."""

    trainer: str
    length: int
    sharpness: float
    seed: int
    own: bool
    of_logits: tuple[Callable[[Tensor], Tensor], ...] = ()


def draw_signal(draw: Random) -> Signal:
    """Softer or sharper, with or without the proof that the teacher knows the text."""
    trainer = draw.choice(("ours", "trl-gkd", "hand-written"))
    return Signal(
        trainer, draw.choice((48, 64)), draw.choice((0.5, 1.0, 1.5)), draw.randrange(100), draw.random() < 0.5
    )


@cache
def _teacher_reads(place: Place, length: int) -> tuple[Tensor, Tensor]:
    encode = tokenizer_of(place, "tok512")
    rows = [[1, *encode(text[:300], add_special_tokens=False).input_ids][:length] for text in stories(place, 32)]
    ids = torch.tensor([row for row in rows if len(row) == length])
    model = AutoModelForCausalLM.from_pretrained(place.material("models", "stories260K-tok512")).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits, ids


def examine_signal(made: Signal, place: Place) -> Sequence[CheckResult]:
    """The doctor's check of the logits against the tokens."""
    logits, ids = _teacher_reads(replace(place, scratch=place.material()), made.length)
    given = logits * made.sharpness
    for change in made.of_logits:
        given = change(given)
    return (audit_signal(given, ids, seed=made.seed, own=(logits, ids) if made.own else None),)


def _changed(made: Signal, change: Callable[[Tensor], Tensor]) -> Signal:
    return replace(made, of_logits=(change,))


@RULES.rule("shift", "teacher-signal-shifted")
def signal_some_positions_away(made: Signal, draw: Random) -> Signal:
    """A server's echo, or padding on another side."""
    by = draw.choice((-3, -2, -1, 1, 2, 4))
    return _changed(made, lambda logits: logits.roll(by, 1))


@RULES.rule("shift", "teacher-signal-of-other-rows teacher-signal-unrelated")
def signal_of_other_rows(made: Signal, draw: Random) -> Signal:
    """A cache in another order."""
    by = draw.choice((1, 2, 7))
    return _changed(made, lambda logits: logits.roll(by, 0))


@RULES.rule("tokenizer", "teacher-signal-unrelated")
def signal_of_other_ids(made: Signal, draw: Random) -> Signal:
    """Its vocabulary has another order, or begins with tokens that the student lacks."""
    by, mixed = draw.choice((1, 3, 64)), draw.random() < 0.5
    order = torch.randperm(512, generator=torch.Generator().manual_seed(by)) if mixed else torch.arange(512).roll(by)
    return _changed(made, lambda logits: logits[..., order])


SIGNALS = World("pair", draw_signal, lambda made: made.trainer, examine_signal, RULES)
