"""Run in processes by `test_sharded`: one backward pass under FSDP2; process 0 compares with the unsharded model."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from distillab.config.layer_terms import HiddenStatesConfig
from distillab.config.terms import CrossEntropyConfig, TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.models.batch import TokenBatch
from distillab.models.structure import model_shape
from distillab.objectives import build_objective
from distillab.objectives.step import measure
from distillab.objectives.term import Objective
from tests.models.head_models import VOCABULARY, tiny_model
from tests.training.conftest import ragged_split, teacher
from tests.training.two_processes import leave

CPU = torch.device("cpu")
ROWS = 6


def _loss(model: torch.nn.Module, batch: TokenBatch, objective: Objective, count: int) -> torch.Tensor:
    source = teacher(tiny_model("untied", seed=9))
    signal = source.signal(batch, objective.request)
    factors = dict.fromkeys(objective.names, 1.0 / count)
    return torch.stack(
        list(measure(model, batch, objective, signal, factors=factors, device=CPU).losses.values())
    ).sum()


def main(folder: Path, kind: str, head_apart: bool) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    rows = [IndexedRow(index, row) for index, row in enumerate(ragged_split(ROWS).rows)]
    shape = model_shape(tiny_model(kind))
    terms = (CrossEntropyConfig(), TokenDivergenceConfig(), HiddenStatesConfig(layers=((1, 1),)))
    objective = build_objective(terms, shared_width=VOCABULARY, student=shape, teacher=shape)
    whole = Collator(0)(rows)
    count = objective.terms[0].term.count(whole)

    plain = tiny_model(kind)
    expected = _loss(plain, whole, objective, count)
    expected.backward()

    sharded = tiny_model(kind)
    for block in sharded.model.layers:
        fully_shard(block)
    if head_apart:
        fully_shard(sharded.lm_head)
    fully_shard(sharded)
    # FSDP averages the gradients over the processes
    loss = world * _loss(sharded, Collator(0)(rows[rank::world]), objective, count)
    loss.backward()
    total = loss.detach() / world
    dist.all_reduce(total)
    worst = 0.0
    for (name, ours), reference in zip(sharded.named_parameters(), plain.parameters(), strict=True):
        assert isinstance(ours.grad, DTensor), name
        assert reference.grad is not None
        difference = (ours.grad.full_tensor() - reference.grad).abs().max() / reference.grad.abs().max()
        worst = max(worst, difference.item())
    leave(folder, {"loss": total.item(), "expected": expected.item(), "worst": worst})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "apart")
