"""Choose the rows of each optimizer step, by the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

GROUPED_STEPS = 32
# The order of steps has its own generator, so that grouping does not change which rows are drawn.
_STEP_ORDER_SEED = 0x57E9


class StepSampler(Sampler[int]):
    """Yield `draws` row indices: one seeded permutation of all rows after another.

    So every optimizer step has exactly its batch size, even if the number of rows is no multiple of it, and two
    arms of a study with the same rows and seed read the same rows in the same order.

    With `lengths`, the rows of every 32 whole steps of one permutation are put into other steps: rows of similar length
    into the same one, longest first, and the steps into a random order. A step with the end of one permutation and
    the start of the next keeps its rows, because a row could otherwise be in one step twice.

    Args:
        rows: how many there are.
        draws: indices to yield; a multiple of batch_size.
        seed: decides everything.
        batch_size: indices an optimizer step, over all processes.
        lengths: tokens of each row, to group by; None: no grouping.
        repeats: steps in a row that have the same rows; without `lengths`.
    """

    def __init__(
        self,
        *,
        rows: int,
        draws: int,
        seed: int,
        batch_size: int,
        lengths: Sequence[int] | npt.NDArray[np.int64] | None = None,
        repeats: int = 1,
    ) -> None:
        if draws % batch_size:
            raise ValueError(f"draws {draws} is no multiple of batch_size {batch_size}")
        if lengths is not None and len(lengths) != rows:
            raise ValueError(f"{len(lengths)} lengths for {rows} rows")
        self.rows, self.draws, self.seed = rows, draws, seed
        self.batch_size = batch_size
        self.lengths, self.repeats = lengths, repeats

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        if self.lengths is None:
            drawn = self._drawn()
            same: list[int] = []
            for number in range(self.draws // self.batch_size):
                if number % self.repeats == 0:
                    same = [next(drawn) for _ in range(self.batch_size)]
                yield from same
        else:
            for grouped in self._grouped(self.lengths):
                yield from grouped

    def _drawn(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        left = self.draws
        while left > 0:
            yield from torch.randperm(self.rows, generator=generator)[:left].tolist()
            left -= self.rows

    def _grouped(self, lengths: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + _STEP_ORDER_SEED)
        drawn = self._drawn()
        done = 0
        while done < self.draws:
            whole_steps = min(self._left_of_permutation(done), self.draws - done) // self.batch_size
            steps = min(max(1, whole_steps), GROUPED_STEPS)
            window = sorted((next(drawn) for _ in range(steps * self.batch_size)), key=lambda row: -lengths[row])
            for place in torch.randperm(steps, generator=generator).tolist():
                yield window[place * self.batch_size : (place + 1) * self.batch_size]
            done += len(window)

    def _left_of_permutation(self, done: int) -> int:
        return self.rows - done % self.rows
