"""Let a tensor-parallel teacher read the batches of all its processes, one after another.

Its processes compute parts of the same layers, so all of them must read the same rows, and the students of these
processes read other rows each. Reading one batch after another costs as many operations as one joined batch, needs the
memory of one, and pads nothing anew.

Shapes: P processes, B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distillab.models.batch import TokenBatch

_READ = ("input_ids", "attention_mask", "position_ids", "answer_mask")


def batches_of_all(
    batch: TokenBatch, group: dist.ProcessGroup, device: torch.device
) -> Iterator[tuple[bool, TokenBatch]]:
    """Give the batch of each process, and whether it is this one's own; all of the group call it together.

    Args:
        batch: of this process.
        device: on which the group exchanges tensors.
    Returns:
        Batches with what a teacher reads: its inputs, and which positions are scored.
    """
    own = torch.stack([cast(Any, batch)[name].to(device, torch.int64) for name in _READ])
    size = torch.tensor(own.shape[1:], device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    for number, (rows, length) in enumerate(torch.stack(sizes).tolist()):
        mine = number == dist.get_rank(group)
        sent = own.contiguous() if mine else own.new_empty(len(_READ), rows, length)
        dist.broadcast(sent, group=group, group_src=number)
        yield mine, batch if mine else _read(*sent)


def _read(ids: Tensor, mask: Tensor, positions: Tensor, scored: Tensor) -> TokenBatch:
    return TokenBatch(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        labels=ids,
        answer_mask=scored.bool(),
        rows=mask - 1,
    )
