"""The processes of one run: how many, how work is dealt out to them, and sums and concatenations over them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor

from distillab.terminal import echo

# for a process that works alone (teacher answers of a server); one that dies is noticed before, see `runs.peers`
_LONGEST_WAIT = timedelta(hours=24)


def world_size() -> int:
    """Return how many processes the launcher has started (torchrun's WORLD_SIZE); 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(*, cpu: bool) -> PartialState:
    """Find the other processes of a run, and print before where: a wrong address is the most common error."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        place = {name: os.environ.get(name, "?") for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
        echo(
            f"process {place['RANK']} of {world_size()} (local {place['LOCAL_RANK']} on {socket.gethostname()}) joins "
            f"{place['MASTER_ADDR']}:{place['MASTER_PORT']}",
            error=True,
        )
    return PartialState(cpu=cpu, **({"timeout": _LONGEST_WAIT} if world_size() > 1 else {}))


@dataclass(frozen=True)
class Processes:
    """The processes of a run. What several of them compute together, each must call.

    Attributes:
        number: of this one, from 0.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def current(cls) -> Processes:
        """Return those that have found each other; one, before they have."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return ONE_PROCESS
        state = PartialState()
        return cls(state.process_index, state.num_processes)

    def dealt(self, items: int) -> Iterator[tuple[int, bool]]:
        """Yield the number of each item of this process, dealt out in turn, and whether it counts.

        Every process gets equally many, because the processes of a sharded model need each other in every forward
        pass: one that would have fewer repeats the last item, which then does not count.
        """
        for turn in range(-(-items // self.count)):
            place = turn * self.count + self.number
            yield min(place, items - 1), place < items

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return values if self.count == 1 else self._gathered(values[None]).sum(dim=0)

    def joined(self, values: Tensor) -> Tensor:
        """Concatenate (n, …) of all processes, in the order of the processes; n may differ."""
        if self.count == 1:
            return values
        sizes = self._gathered(torch.tensor([values.shape[0]], device=values.device)).tolist()
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: values.shape[0]] = values
        parts = self._gathered(padded).split(max(1, max(sizes)))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=False)])

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    def _gathered(self, values: Tensor) -> Tensor:
        device = PartialState().device  # NCCL gathers on a GPU alone
        return cast(Tensor, gather(values.to(device).contiguous())).to(values.device)


ONE_PROCESS = Processes(0, 1)
