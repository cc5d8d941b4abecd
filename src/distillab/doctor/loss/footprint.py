"""Which positions of a batch a loss function reads, seen from what moves when they are changed.

Shape letters: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.doctor.loss.call import TRIED_TEMPERATURE, LossCaller, Measured
from distillab.doctor.loss.sample_problem import LogitBatch

# Changes below these shares of the gradient's or the value's size are rounding.
_GRADIENT_ROUNDING = 2e-5
_VALUE_ROUNDING = 3e-6
# A gradient that turns by more than this (length of the difference of unit vectors) is read from elsewhere too.
_TURN = 1e-2
# Rows may be in another order with some of them in place; rounding never changes another row's gradient like this.
_SOME_ROWS = 0.1


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
