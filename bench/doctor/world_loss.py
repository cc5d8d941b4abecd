"""Distillation losses, composed of steps as plain loops and trainers write them; a fault changes one of the steps.

Shape letters: B sequences, L positions, V vocabulary, N scored positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bench.doctor.case import Place
from bench.doctor.grammar import Random
from bench.doctor.rows import IGNORED
from distillab.doctor import audit_loss
from distillab.records import CheckResult

# log-probabilities of student and teacher -> nats of each place
Divergence = Callable[[Tensor, Tensor], Tensor]


def forward_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities (..., V): (...)."""
    return functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def reverse_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(student || teacher) of the same."""
    return functional.kl_div(p, q, reduction="none", log_target=True).sum(-1)


def _jensen_shannon(q: Tensor, p: Tensor) -> Tensor:
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return 0.5 * (reverse_kl(middle, p) + reverse_kl(middle, q))


def _cross_entropy(q: Tensor, p: Tensor) -> Tensor:
    return -(p.exp() * q.clamp(min=-1e4)).sum(-1)


_DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "soft targets": _cross_entropy,
}


def scored_places(labels: Tensor) -> Tensor:
    """(B, L - 1) where logits are scored against the label behind them."""
    return labels[:, 1:] != IGNORED


def _tokens(kl: Tensor, keep: Tensor) -> Tensor:
    return (kl * keep).sum() / keep.sum().clamp(min=1)


def _sequences(kl: Tensor, keep: Tensor) -> Tensor:
    return ((kl * keep).sum(1) / keep.sum(1).clamp(min=1)).mean()


def _same(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return s, t


@dataclass(frozen=True)
class Loss:
    """Each step is a function. soft_weight and hard_weight: of the divergence, and of the labels' cross-entropy.

    power: T to this power multiplies the divergence. prepare: of both models' logits as they are given. keep: from the
    labels, (B, L - 1). logp: of logits; for the teacher teacher_logp. expects: what the doctor is told.
    """

    trainer: str
    family: str
    divergence: Divergence
    has_temperature: bool
    soft_weight: float = 1.0
    hard_weight: float = 0.0
    power: float = 2.0
    expects: str | None = None
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _same
    labels: Callable[[Tensor], Tensor] = Tensor.clone
    keep: Callable[[Tensor], Tensor] = scored_places
    ahead: int = 0
    student_temperature: Callable[[float], float] = float
    teacher_temperature: Callable[[float], float] = float
    logp: Callable[[Tensor], Tensor] = lambda x: x.log_softmax(-1)
    teacher_logp: Callable[[Tensor], Tensor] = lambda x: x.log_softmax(-1)
    pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _same
    reduce: Callable[[Tensor, Tensor], Tensor] = _tokens
    hard_power: float = 0.0
    hard_temperature: bool = False
    hard_shift: int = 1

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """The loss of a batch."""
        s, t = self.prepare(student_logits, teacher_logits)
        labels = self.labels(labels)
        soft_s, soft_t = s[:, :-1], t.roll(-self.ahead, 1)[:, :-1]
        q = self.logp(soft_s / self.student_temperature(temperature))
        p = self.teacher_logp(soft_t / self.teacher_temperature(temperature))
        keep = self.keep(labels)
        loss = self.soft_weight * temperature**self.power * self.reduce(self.divergence(*self.pair(q, p)), keep)
        if self.hard_weight:
            end = s.shape[1] - self.hard_shift
            logits = s[:, :end] / (temperature if self.hard_temperature else 1.0)
            targets = labels[:, self.hard_shift :].flatten()
            hard = functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
            loss = loss + self.hard_weight * temperature**self.hard_power * hard / (targets != IGNORED).sum().clamp(
                min=1
            )
        return loss


def draw_loss(draw: Random) -> Loss:
    """A right loss: a divergence, alone or beside the labels, with or without a temperature."""
    trainer = draw.choice(("ours", "trl-gkd", "torchtune", "hand-written"))
    family = draw.choice(tuple(_DIVERGENCES))
    alpha = draw.choice((1.0, 1.0, 0.5, 0.7, 0.9))
    return Loss(
        trainer,
        family,
        _DIVERGENCES[family],
        has_temperature=draw.random() < 0.5,
        soft_weight=alpha,
        hard_weight=round(1 - alpha, 2),
        power=draw.choice((2.0, 2.0, 0.0)),
        reduce=draw.choice((_tokens, _tokens, _sequences)),
        expects=draw.choice((None, family)) if family != "soft targets" else None,
    )


def examine_loss(made: Loss, place: Place) -> Sequence[CheckResult]:
    """As a function of student_logits, teacher_logits and labels, and of a temperature where it has one."""

    def with_temperature(
        student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 2.0
    ) -> Tensor:
        return made(student_logits, teacher_logits, labels, temperature)

    def without(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return made(student_logits, teacher_logits, labels, 1.0)

    function = with_temperature if made.has_temperature else without
    return (audit_loss(function, given="sequences", expects=made.expects),)
