"""A loss function under examination: how it is called, and what was measured of it once for all checks.

Shape letters: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.doctor.loss.call import TRIED_TEMPERATURE, LossCaller, Measured
from distillab.doctor.loss.footprint import Footprint, HardPart, measured_footprint, measured_hard_part
from distillab.doctor.loss.formulas import lowest
from distillab.doctor.loss.sample_problem import LogitBatch

# What is left of a gradient, as a share of it, where it counts as zero: an ε inside of a logarithm leaves as much.
NOTHING_LEFT = 1e-2


@dataclass(frozen=True)
class Subject:
    """The function and the measurements that every check reads.

    base: at independent logits. equal: with the teacher's logits for both models. hard: the cross-entropy with labels.
    padded: batches hold padding.
    """

    caller: LossCaller
    batch: LogitBatch
    base: Measured
    equal: Measured
    footprint: Footprint
    hard: HardPart
    padded: bool

    @property
    def takes_mask(self) -> bool:
        """Whether the function can know which positions are scored, or at least which are padding."""
        return self.caller.given == "scored" or "labels" in self.caller.takes or "attention_mask" in self.caller.takes

    @property
    def soft_gradient(self) -> Tensor:
        """(B, L, V) the gradient without the cross-entropy with labels: what is read from the teacher."""
        return self.base.gradient - self.hard.gradient(self.batch.student)

    @property
    def soft_value(self) -> float:
        """The value without the cross-entropy with labels."""
        return self.base.value - self.hard.value(self.batch.student)

    @property
    def soft_gradient_at_teacher(self) -> Tensor:
        """(B, L, V) the same at student = teacher."""
        return self.equal.gradient - self.hard.gradient(self.batch.teacher)

    @property
    def soft_value_at_teacher(self) -> float:
        """The value without the cross-entropy with labels, at student = teacher."""
        return self.equal.value - self.hard.value(self.batch.teacher)

    @property
    def left_at_teacher(self) -> float:
        """The gradient's length at student = teacher, as a share of that at independent logits."""
        return float(self.soft_gradient_at_teacher.norm() / self.soft_gradient.norm().clamp(min=1e-30))

    @property
    def teacher_is_target(self) -> bool:
        """Whether a part of the gradient other than a weight of the labels' cross-entropy comes from the teacher."""
        return float(self.soft_gradient.norm()) > 1e-4 * float(self.base.gradient.norm())

    @property
    def reads_teacher_alone(self) -> bool:
        """Whether what is read from the teacher can be distinguished from what is read from the labels."""
        return self.hard.pure


def measured(caller: LossCaller, batch: LogitBatch, base: Measured, *, padded: bool) -> Subject:
    """Measure the footprint, the labels' part, and the behaviour at student = teacher."""
    equal = caller(replace(batch, student=batch.teacher))
    footprint = measured_footprint(caller, batch, base)
    hard = measured_hard_part(caller, batch, base)
    if hard.offset is not None:
        at_teacher = measured_hard_part(caller, replace(batch, student=batch.teacher), equal)
        alike = float((at_teacher.weight - hard.weight).abs().max()) < 1e-2 * float(hard.weight.abs().max())
        hard = replace(hard, pure=hard.pure and at_teacher.pure and alike)
        hard = _settled(hard, equal.gradient, batch.teacher)
    return Subject(caller, batch, base, equal, footprint, hard, padded)


def _settled(hard: HardPart, gradient: Tensor, logits: Tensor) -> HardPart:
    """Return the labels' temperature and smoothing, if they explain all that is left at student = teacher.

    A sound divergence has no gradient there, so that what is left is the labels'.
    """
    size = float(gradient.norm())
    here = hard.weight != 0

    def left(power: float) -> float:
        return float((gradient - replace(hard, temperature=2.0**power).gradient(logits)).norm()) / max(size, 1e-30)

    if left(0.0) < NOTHING_LEFT:
        return hard
    tried = TRIED_TEMPERATURE if left(1.0) < NOTHING_LEFT else 2.0 ** lowest(left, -3.0, 3.0, steps=24)
    warm = replace(hard, temperature=tried)
    if float((gradient - warm.gradient(logits)).norm()) < NOTHING_LEFT * size:
        return warm
    rest = (gradient - hard.gradient(logits))[here]
    to_all = logits[here].softmax(dim=-1) - 1.0 / logits.shape[-1]
    to_all = to_all * hard.weight[here][:, None]
    spread = float((rest * to_all).sum() / to_all.square().sum())
    if 0.0 < spread < 1.0:
        smooth = replace(hard, smoothing=spread / (1.0 + spread))
        if float((gradient - smooth.gradient(logits)).norm()) < NOTHING_LEFT * size:
            return smooth
    return hard


def alike(first: Measured, second: Measured, *, share: float = 1e-4) -> bool:
    """Return whether two calls gave the same value and, where their shapes allow, the same gradient."""
    if abs(first.value - second.value) > share * max(abs(first.value), abs(second.value), 1e-12):
        return False
    if first.gradient.shape != second.gradient.shape:
        return True
    most = max(float(first.gradient.abs().max()), 1e-30)
    return bool(torch.all((first.gradient - second.gradient).abs() <= share * most))
