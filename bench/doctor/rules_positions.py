"""Faults of batches: position ids, padding that they count, and where packed samples begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bench.doctor.grammar import Random
from bench.doctor.rules_labels import RULES, score, to_batches, to_column, to_each, told
from bench.doctor.world_batch import Batch, Batches


def _absolute(made: Batches) -> bool:
    return made.tokenizer == "gpt2" and made.padded and made.mask


def _from(first: int) -> Callable[[Batch], Tensor]:
    return lambda true: (true["attention_mask"].cumsum(1) - 1 + first) * true["attention_mask"]


def _running(true: Batch) -> Tensor:
    return torch.arange(true["labels"].numel()).view_as(true["labels"])


def _rolled(by: int) -> Callable[[Batch], Tensor]:
    return lambda true: true["position_ids"].roll(by, 1)


def _counted(batch: Batch, true: Batch, _: Random) -> None:
    batch["position_ids"] = torch.arange(true["labels"].shape[1]).expand_as(true["labels"]).clone()


def _without(*names: str) -> Callable[[Batch, Batch, Random], None]:
    def change(batch: Batch, true: Batch, _: Random) -> None:
        for name in names:
            batch.pop(name, None)

    return change


add = RULES.add
# fmt: off

# cumsum without - 1, or OPT's offset of 2, for a model that learns a vector a position.
add("shift", "positions-do-not-begin-at-zero", "positions-wrong",
    lambda made, draw: to_column(told(made), "position_ids", _from(draw.choice((1, 2, 5)))), _absolute)
# torch.arange(B * L).view(B, L).
add("shift", "positions-run-on", "positions-wrong",
    lambda made, draw: to_column(told(made), "position_ids", _running), _absolute, beside="padding-side")
# Left padding for GPT-2, without position ids, or with arange.
add("shift", "padding-left-and-not-counted-out", "padding-side positions-wrong",
    lambda made, draw: to_batches(replace(told(made), side="left"),
                                  _counted if draw.random() < 0.5 else _without("position_ids")), _absolute)
# Position ids and block mask are columns that the trainer removes.
add("shift", "boundaries-lost", "packed-without-boundaries",
    lambda made, draw: to_batches(made, _without("position_ids", "attention_mask")),
    lambda made: made.packing != "none")
# The samples' lengths were taken before BOS was added, or before they were cut.
add("shift", "positions-begin-again-elsewhere", "positions-wrong",
    lambda made, draw: to_column(made, "position_ids", _rolled(draw.choice((-3, -1, 1, 2, 5)))),
    lambda made: made.packing == "positions")
# Each packed text's BOS is predicted from the text before it.
add("shift", "first-tokens-scored", "sample-start-scored",
    lambda made, draw: to_each(made, lambda row: score(row, [0], yes=True)),
    lambda made: made.packing != "none" and made.learns == "text" and made.has_bos)
# fmt: on
