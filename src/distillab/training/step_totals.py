"""Sums and counts of one optimizer step, over all of its microbatches and all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.models.aligned_positions import teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_count
from distillab.objectives.term import Objective
from distillab.processes import Processes
from distillab.teachers.protocol import SignalSource, tokens_read


@dataclass
class StepTotals:
    """What is summed and counted in one optimizer step.

    Attributes:
        counts: term -> count, over all processes.
        sums: term -> sum in its unit, over the microbatches of this process that were run.
        supervised_tokens, tokens, teacher_tokens: over all processes, see `StepReport`.
    """

    counts: dict[str, int]
    sums: dict[str, Tensor]
    supervised_tokens: int
    tokens: int
    teacher_tokens: int

    @classmethod
    def counted(
        cls,
        batches: Sequence[TokenBatch],
        objective: Objective,
        teacher: SignalSource | None,
        processes: Processes,
        device: torch.device,
    ) -> StepTotals:
        """Count the microbatches of a step, before the first is run; the sums are 0.

        Args:
            batches: those of this process.
        """
        local = [sum(weighted.term.count(batch) for batch in batches) for weighted in objective.terms]
        supervised = sum(scored_count(batch) for batch in batches)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        teacher_tokens = sum(tokens_read(teacher, teacher_batch(batch)) for batch in batches)
        local += [supervised, tokens, teacher_tokens]
        *counts, supervised, tokens, teacher_tokens = processes.sum(
            torch.tensor(local, dtype=torch.long, device=device)
        ).tolist()
        sums = {name: torch.zeros((), device=device) for name in objective.names}
        return cls(dict(zip(objective.names, counts, strict=True)), sums, supervised, tokens, teacher_tokens)

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a microbatch."""
        for name, total in sums.items():
            self.sums[name] += total

    def terms(self, processes: Processes) -> dict[str, tuple[float, int]]:
        """Return term -> (sum in its unit, count), over all processes."""
        sums = processes.sum(torch.stack(list(self.sums.values())))
        return {name: (float(value), self.counts[name]) for name, value in zip(self.sums, sums, strict=True)}
