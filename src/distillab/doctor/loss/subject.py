"""A loss function under examination: how it is called, and what was measured of it once for all checks.

Shape letters: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.doctor.loss.call import TRIED_TEMPERATURE, LogitBatch, LossCaller, Measured
from distillab.doctor.loss.formulas import lowest

# What is left of a gradient, as a share of it, where it counts as zero: an ε inside of a logarithm leaves as much.
NOTHING_LEFT = 1e-2
# Changes below these shares of the gradient's or the value's size are rounding.
_GRADIENT_ROUNDING = 2e-5
_VALUE_ROUNDING = 3e-6
# A gradient that turns by more than this (length of the difference of unit vectors) is read from elsewhere too.
_TURN = 1e-2
# Rows may be in another order with some of them in place; rounding never changes another row's gradient like this.
_SOME_ROWS = 0.1


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


@dataclass(frozen=True)
class Footprint:
    """teacher: (B, L) bool, where the teacher's logits matter. student: (B, L) bool, where the student's do.

    offset: student position minus teacher position that it is pulled to; None where no pull could be seen.
    mixed: share of the teacher's positions that also turn the gradient of some other position.
    elsewhere: share of the teacher's positions that pull the student's logits in another row, and not in their own.
    pulled: of each of the teacher's rows the row of the student that it pulls most often; its own where it pulls none.
    """

    teacher: Tensor
    student: Tensor
    offset: int | None
    mixed: float
    elsewhere: float = 0.0
    pulled: tuple[int, ...] = ()

    @property
    def of_other_rows(self) -> bool:
        """Whether rows of the student are compared with other rows of the teacher."""
        return self.elsewhere > _SOME_ROWS


@dataclass(frozen=True)
class HardPart:
    """The cross-entropy with labels that a loss has as a part.

    weight: (B, L) its factor at each position of the logits. target: (B, L) the label that is read there, 0 where none.
    offset: position of the logits minus position of the label; −1 is the causal one. None: no label matters.
    pure: the labels act as in a cross-entropy of constant weight, and in no other way.
    temperature: by which its logits are divided. smoothing: share of the label that is spread over the vocabulary.
    """

    weight: Tensor
    target: Tensor
    offset: int | None
    pure: bool
    temperature: float = 1.0
    smoothing: float = 0.0

    def gradient(self, student: Tensor) -> Tensor:
        """Return (B, L, V) its share of the gradient at these student logits."""
        q = (student / self.temperature).softmax(dim=-1)
        to_label = q.scatter_add(2, self.target[..., None], -torch.ones_like(q[..., :1]))
        to_all = q - 1.0 / q.shape[-1]
        spread = self.smoothing / (1.0 - self.smoothing)
        return (to_label + spread * to_all) * self.weight[..., None]

    def value(self, student: Tensor) -> float:
        """Return its share of the value at these student logits, nats."""
        logp = (student / self.temperature).log_softmax(dim=-1)
        spread = self.smoothing / (1.0 - self.smoothing)
        nats = -logp.gather(2, self.target[..., None])[..., 0] - spread * logp.mean(dim=-1)
        return float((nats * self.weight).sum()) * self.temperature


def measured_footprint(caller: LossCaller, batch: LogitBatch, base: Measured) -> Footprint:
    """Change the teacher's logits position by position, and measure how value and gradient change."""
    # another order of the tokens, and another sharpness: seen by what reads the first choice alone, and by what sorts
    other = batch.teacher.roll(5, dims=-1) * 0.7
    rows = base.gradient.norm(dim=-1)
    most = float(rows.max())
    student = rows > _GRADIENT_ROUNDING * most
    units = base.gradient / rows.clamp(min=1e-30)[..., None]
    teacher = torch.zeros_like(student)
    offsets: Counter[int] = Counter()
    pulled: Counter[tuple[int, int]] = Counter()
    mixing = elsewhere = 0
    for row, position in torch.ones_like(student).nonzero().tolist():
        changed = batch.teacher.clone()
        changed[row, position] = other[row, position]
        now = caller(replace(batch, teacher=changed))
        moved = (now.gradient - base.gradient).norm(dim=-1)
        largest = float(moved.max())
        value_moved = abs(now.value - base.value) > _VALUE_ROUNDING * max(abs(base.value), abs(now.value))
        if largest <= _GRADIENT_ROUNDING * most and not value_moved:
            continue
        teacher[row, position] = True
        if largest <= _GRADIENT_ROUNDING * most:
            continue
        where = divmod(int(moved.argmax()), moved.shape[1])
        pulled[row, where[0]] += 1
        sizes = now.gradient.norm(dim=-1)
        now_units = now.gradient / sizes.clamp(min=1e-30)[..., None]
        turned = (now_units - units).norm(dim=-1)
        # a weight that is shared by the batch, such as an advantage, makes the gradients of all rows longer or shorter,
        # or reverses them; it gives none another target
        aside = torch.minimum(turned, (now_units + units).norm(dim=-1))
        target, moves = bool(aside[where] > _TURN), moved > _GRADIENT_ROUNDING * most
        if where[0] != row:
            elsewhere += not bool(moves[row].any()) or (target and bool(turned[row].max() <= _TURN))
        elif target or where[1] == position or not moves[row, position]:
            offsets[where[1] - position] += 1
        turned[where] = 0.0
        mixing += bool((turned[student & (sizes > _GRADIENT_ROUNDING * most)] > _TURN).any())
    offset = offsets.most_common(1)[0][0] if offsets else 0 if pulled else None
    count = max(int(teacher.sum()), 1)
    rows_of_student = range(len(rows))
    most_pulled = tuple(max(rows_of_student, key=lambda to: (pulled[of, to], to == of)) for of in rows_of_student)
    return Footprint(teacher, student, offset, mixing / count, elsewhere / count, most_pulled)


def measured_hard_part(
    caller: LossCaller, batch: LogitBatch, base: Measured, *, temperature: float = TRIED_TEMPERATURE
) -> HardPart:
    """Change the labels one by one, and read the weight of the cross-entropy from the gradient's change."""
    rows, length, vocabulary = batch.student.shape
    weight = torch.zeros(rows, length)
    target = torch.zeros(rows, length, dtype=torch.int64)
    offsets: Counter[int] = Counter()
    pure = True
    most = float(base.gradient.abs().max())
    for row, position in (batch.labels != -100).nonzero().tolist() if "labels" in caller.takes else ():
        before = int(batch.labels[row, position])
        after = (before + 1) % vocabulary
        labels = batch.labels.clone()
        labels[row, position] = after
        moved = caller(replace(batch, labels=labels), temperature=temperature).gradient - base.gradient
        largest = float(moved.abs().max())
        if largest <= _GRADIENT_ROUNDING * most:
            continue
        at_row, at = divmod(int(moved.norm(dim=-1).argmax()), length)
        factor = (moved[at_row, at, before] - moved[at_row, at, after]) / 2
        expected = torch.zeros_like(moved)
        expected[at_row, at, before], expected[at_row, at, after] = factor, -factor
        pure = pure and at_row == row and float((moved - expected).abs().max()) < 2e-2 * largest
        weight[at_row, at], target[at_row, at] = factor, before
        offsets[at - position] += 1
    return HardPart(weight, target, offsets.most_common(1)[0][0] if offsets else None, pure)
