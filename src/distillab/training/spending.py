"""What a run has used of a budget that is no number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from torch.optim.lr_scheduler import LambdaLR

_ROUNDING = 1e-9
_MOST = 10  # times the planned steps, for a run whose steps cost next to nothing


@dataclass(frozen=True)
class Used:
    """Tokens of one optimizer step, over all processes.

    Attributes:
        student, scored: that the student reads and is scored at, to learn from them.
        teacher: that the teacher reads, live or from a cache.
        generated, written: that the student reads and writes to write its answers; of these, that it writes.
    """

    student: int
    scored: int
    teacher: int
    generated: int = 0
    written: int = 0


@dataclass
class Spending:
    """A budget: the run ends with the step that reaches it, and its schedules follow the share that is used.

    Args:
        amount: all that may be used.
        of: what a step uses.
        planned: optimizer steps of the schedules.
        before: used before the first step.
    """

    amount: float
    of: Callable[[Used], float]
    planned: int
    before: float = 0.0
    spent: float = field(init=False)
    _ended_at: int | None = None

    def __post_init__(self) -> None:
        self.spent = self.before

    @property
    def share(self) -> float:
        """Used of what there was at the first step, from 0 to 1."""
        return min(1.0, (self.spent - self.before) / (self.amount - self.before))

    @property
    def used(self) -> float:
        """Used of all."""
        return self.spent / self.amount

    @property
    def ended(self) -> bool:
        """Whether no step is left."""
        return self.share >= 1.0 - _ROUNDING

    @property
    def steps(self) -> float:
        """The planned steps that the share stands for, for schedules; 0 at first."""
        return self.share * self.planned

    @property
    def most_steps(self) -> int:
        """After how many optimizer steps the run ends in any case."""
        return self._ended_at or _MOST * self.planned

    def follow(self, schedule: LambdaLR) -> LambdaLR:
        """Return the schedule, which then reads the share of the budget in place of the number of steps."""

        def by_share(factor: Callable[[float], float]) -> Callable[[int], float]:
            return lambda step: factor(self.steps)

        schedule.lr_lambdas = [by_share(cast(Any, factor)) for factor in schedule.lr_lambdas]
        return schedule

    def resume(self, spent: float, *, step: int) -> None:
        """Take over what a checkpoint after `step` had used."""
        self.spent = spent
        self._ended_at = step if self.ended else None
