"""The processes that train one student: how many, and sums and concatenations over them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor


def world_size() -> int:
    """Return how many processes the launcher has started (torchrun's WORLD_SIZE); 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Processes:
    """The processes of a training.

    Attributes:
        number: of this one, from 0.
        count: how many there are.
    """

    accelerator: Accelerator
    number: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count == 1:
            return values
        gathered = cast(Tensor, self.accelerator.gather(values[None]))
        return gathered.sum(dim=0)

    def joined(self, values: Tensor) -> Tensor:
        """Concatenate (n, …) of all processes, in the order of the processes; n may differ."""
        if self.count == 1:
            return values
        sizes = cast(Tensor, self.accelerator.gather(torch.tensor([values.shape[0]], device=values.device))).tolist()
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: values.shape[0]] = values
        gathered = cast(Tensor, self.accelerator.gather(padded))
        return torch.cat([part[:size] for part, size in zip(gathered.split(max(1, max(sizes))), sizes, strict=False)])
