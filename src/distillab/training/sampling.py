"""Which rows each optimizer step reads: decided by the seed alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class StepSampler(Sampler[int]):
    """Yields `draws` row indices: one seeded permutation of all rows after another.

    Every optimizer step so has exactly its batch size, also where the rows do not divide by it, and two
    arms of a study with the same rows and seed read the same rows in the same order.
    """

    def __init__(self, *, rows: int, draws: int, seed: int) -> None:
        self.rows, self.draws, self.seed = rows, draws, seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        left = self.draws
        while left > 0:
            yield from torch.randperm(self.rows, generator=generator)[:left].tolist()
            left -= self.rows
