"""Faults of batches: position ids, padding that they count, and where packed samples begin."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.doctor.grammar import Random
from bench.doctor.rules_labels import RULES, score, to_batches, to_each
from bench.doctor.world_batch import Batch, Batches


def _absolute(made: Batches) -> bool:
    return made.tokenizer == "gpt2" and made.padded and made.mask


@RULES.rule("shift", "positions-wrong", fits=_absolute)
def positions_do_not_begin_at_zero(made: Batches, draw: Random) -> Batches:
    """cumsum without - 1, or OPT's offset of 2, for a model that learns a vector a position."""
    first = draw.choice((1, 2, 5))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = (true["attention_mask"].cumsum(1) - 1 + first) * true["attention_mask"]

    return to_batches(replace(made, told=True), change)


@RULES.rule("shift", "positions-wrong", fits=_absolute, beside=["padding-side"])
def positions_run_on(made: Batches, draw: Random) -> Batches:
    """torch.arange(B * L).view(B, L)."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = torch.arange(true["labels"].numel()).view_as(true["labels"])

    return to_batches(replace(made, told=True), change)


@RULES.rule("shift", "padding-side", "positions-wrong", fits=_absolute)
def padding_left_and_not_counted_out(made: Batches, draw: Random) -> Batches:
    """Left padding for GPT-2, without position ids, or with arange."""
    counted = draw.random() < 0.5

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch.pop("position_ids", None)
        if counted:
            batch["position_ids"] = torch.arange(true["labels"].shape[1]).expand_as(true["labels"]).clone()

    return to_batches(replace(made, told=True, side="left"), change)


@RULES.rule("shift", "packed-without-boundaries", fits=lambda made: made.packing != "none")
def boundaries_lost(made: Batches, draw: Random) -> Batches:
    """Position ids and block mask are columns that the trainer removes."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        del batch["position_ids"]
        batch.pop("attention_mask", None)

    return to_batches(made, change)


@RULES.rule("shift", "positions-wrong", fits=lambda made: made.packing == "positions")
def positions_begin_again_elsewhere(made: Batches, draw: Random) -> Batches:
    """The samples' lengths were taken before BOS was added, or before they were cut."""
    by = draw.choice((-3, -1, 1, 2, 5))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = true["position_ids"].roll(by, 1)

    return to_batches(made, change)


@RULES.rule(
    "shift",
    "sample-start-scored",
    fits=lambda made: made.packing != "none" and made.learns == "text" and made.has_bos,
)
def first_tokens_scored(made: Batches, draw: Random) -> Batches:
    """Each packed text's BOS is predicted from the text before it."""
    return to_each(made, lambda row: score(row, [0], yes=True))
