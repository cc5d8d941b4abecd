"""Batches that are spoiled in one way each, and the id under which that has to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.doctor.batch_samples import (
    ROWS,
    Batch,
    Row,
    World,
    answer_start,
    changed,
    inverted,
    scored_from,
    two_sided,
    unmasked,
)

Spoil = Callable[[World], Any]


@dataclass(frozen=True)
class Fault:
    name: str
    id: str
    severity: str
    spoil: Spoil
    said: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()


FAULTS: list[Fault] = []


def add(name: str, id: str, severity: str, spoil: Spoil, *, only: tuple[str, ...] = (), **said: Any) -> None:
    FAULTS.append(Fault(name, id, severity, spoil, said, only))


def fault(id: str, severity: str, **options: Any) -> Callable[[Spoil], Spoil]:
    """The same where a fault takes several lines."""

    def keep(spoil: Spoil) -> Spoil:
        add(spoil.__name__, id, severity, spoil, **options)
        return spoil

    return keep


def without_mask(spoil: Spoil) -> Spoil:
    return lambda world: {name: values for name, values in spoil(world).items() if name != "attention_mask"}


def rolled(world: World, by: int) -> Batch:
    batch = world.good()
    labels = torch.full_like(batch["labels"], -100)
    if by > 0:
        labels[:, :-by] = batch["labels"][:, by:]
    else:
        labels[:, -by:] = batch["labels"][:, :by]
    return batch | {"labels": labels}


WITH_BEGIN = ("tinyllama-1.1b", "mistral-7b-v0.1", "tok512")


@fault("answer-at-prompt-positions", "error")
def prompt_in_answer_out(world):
    """The investigation's own: inputs are prompts, labels are answers, both padded to one length."""
    pairs = [(world.begin + world.text(p), world.begin + world.text(a) + [world.eos]) for p, a in world.pairs[:ROWS]]
    longest = max(len(ids) for pair in pairs for ids in pair)
    return {
        "input_ids": torch.tensor([p + [world.eos] * (longest - len(p)) for p, _ in pairs]),
        "labels": torch.tensor([a + [-100] * (longest - len(a)) for _, a in pairs]),
        "attention_mask": torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p, _ in pairs]),
    }


@fault("labels-not-inputs", "warning")
def another_version_of_the_answer(world):
    batch = world.good()
    labels = batch["labels"].clone()
    places = (labels != -100).nonzero()[::4]
    labels[places[:, 0], places[:, 1]] = batch["input_ids"][0, 1]
    return batch | {"labels": labels}


@fault("positions-wrong", "warning")
def positions_jump(world):
    batch = world.good()
    places = torch.arange(batch["input_ids"].shape[1]).repeat(ROWS, 1)
    places[:, 10:] += 7
    return batch | {"position_ids": places}


def some_masked(batch: Batch) -> Batch:
    return {"labels": torch.cat([torch.full_like(batch["labels"][:3], -100), batch["labels"][3:]])}


def padding_scored(batch: Batch) -> Batch:
    return {"labels": torch.where(batch["attention_mask"] == 0, batch["input_ids"], batch["labels"])}


def copied_labels(world: World, **made: Any) -> Batch:
    ids = world.good(**made)["input_ids"]
    return {"input_ids": ids, "labels": ids.clone()}


def end_masked_by_id(world: World) -> Batch:
    batch = world.good()
    return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == world.eos, -100)}


def hidden_ends(world: World, batch: Batch) -> Batch:
    return batch | {"attention_mask": (batch["input_ids"] != world.eos).long()}


def cut_at_the_median(world: World) -> Batch:
    rows = world.rows()
    most = sorted(len(ids) for ids, _ in rows)[ROWS // 2]
    return world.batch([(ids[:most], labels[:most]) for ids, labels in rows])


def counted(batch: Batch) -> torch.Tensor:
    """Positions that count the padding, and every sample of a row."""
    return torch.arange(batch["labels"].shape[1]).repeat(len(batch["labels"]), 1)


def unknown(rows: list[Row]) -> list[Row]:
    made = [([i if n % 4 == 0 else 0 for n, i in enumerate(ids)], labels) for ids, labels in rows]
    return inverted(inverted(made))


# fmt: off
add("prompt_in_answer_out_without_mask", "answer-at-prompt-positions", "error", without_mask(prompt_in_answer_out))
add("padded_on_two_sides", "labels-misaligned", "error", lambda world: two_sided(world, world.rows()))
add("shuffled_apart", "labels-of-other-rows", "error",
    lambda world: (batch := world.batch(unmasked([(ids[:60], []) for ids, _ in world.rows()])))
    | {"labels": batch["labels"].roll(1, dims=0)})
add("some_prompts_fill_the_row", "all-masked-rows", "warning", changed(some_masked))
add("padding_scored_on_the_left", "padding-in-loss", "error", changed(padding_scored, side="left"))
add("labels_are_a_copy_and_nothing_is_masked", "padding-in-loss", "error",
    lambda world: copied_labels(world, pad=0), only=WITH_BEGIN)
add("labels_are_a_copy_and_padding_is_the_end", "padding-in-loss", "error", copied_labels)
add("some_prompts_are_not_masked", "prompt-in-loss", "warning",
    lambda world: world.batch([scored_from(0, row[0]) if n % 2 else row for n, row in enumerate(world.rows())]))
add("a_template_shows_that_prompts_are_scored", "prompt-in-loss", "warning",
    lambda world: world.batch(unmasked(world.instructions())))
add("mask_the_wrong_way_round", "mask-inverted", "error", lambda world: world.batch(inverted(world.rows())))
add("mask_the_wrong_way_round_in_a_template", "mask-inverted", "error",
    lambda world: world.batch(inverted(world.turns())), learns="answers")
add("mask_shifted_with_the_labels", "answer-start-not-scored", "warning",
    lambda world: world.batch([scored_from(answer_start(row) + 2, row[0]) for row in world.instructions()]))
add("end_masked_by_id", "eos-not-scored", "error", end_masked_by_id)
add("end_and_attention_masked_by_id", "eos-not-scored", "error",
    lambda world: hidden_ends(world, end_masked_by_id(world)))
add("end_masked_by_id_without_an_attention_mask", "eos-not-scored", "error", without_mask(end_masked_by_id))
add("longest_answers_are_cut", "answers-truncated", "warning", cut_at_the_median)
add("left_padding_and_positions_that_count_it", "padding-side", "error",
    changed(lambda batch: {"position_ids": counted(batch)}, side="left"), absolute_positions=True)
add("left_padding_without_a_mask", "padding-attended", "warning",
    without_mask(lambda world: world.good(side="left")))
add("ends_of_turns_hidden_by_id", "tokens-hidden", "warning",
    lambda world: hidden_ends(world, world.batch(world.turns())))
add("packed_and_positions_go_on", "packed-without-boundaries", "warning",
    lambda world: (batch := world.packed()) | {"position_ids": (at := counted(batch)), "attention_mask": at * 0 + 1})
add("one_row_again", "duplicated-rows", "warning",
    lambda world: world.batch([*world.rows(ROWS - 2), *world.rows(2)]))
add("a_token_that_was_added_elsewhere", "ids-outside-vocabulary", "error",
    lambda world: world.batch([([*ids[:-1], 60_000], [*own[:-1], 60_000]) for ids, own in world.rows()]))
add("all_unknown", "unknown-tokens", "error", lambda world: world.batch(unknown(world.rows())), only=WITH_BEGIN)
add("markers_as_text", "markers-in-pieces", "warning",
    lambda world: world.batch(world.chatml()), only=("gpt2", "tok512"))
add("shifted_in_the_data", "labels-shifted-twice", "error", lambda world: rolled(world, 1), shifts="model")
add("shifted_in_the_data_and_nobody_says_who_shifts", "labels-shifted-twice", "error", lambda world: rolled(world, 1))
add("rolled_in_the_data", "labels-shifted-twice", "error",
    changed(lambda batch: {"labels": torch.roll(batch["labels"], -1, dims=1)}), shifts="model")
add("shifted_by_two", "labels-shifted-twice", "error", lambda world: rolled(world, 2), shifts="batch")
add("shifted_back", "labels-shifted-wrong-way", "error", lambda world: rolled(world, -1))
add("rolled_back_by_who_should_shift", "labels-shifted-wrong-way", "error",
    changed(lambda batch: {"labels": batch["labels"].roll(1, dims=1)}), shifts="batch")
add("nobody_shifts", "labels-not-shifted", "error", lambda world: world.good(), shifts="batch")
add("nothing_is_scored", "all-masked-rows", "error",
    changed(lambda batch: {"labels": torch.full_like(batch["labels"], -100)}))
add("padding_scored", "padding-in-loss", "error", changed(padding_scored))
add("no_prompt_is_masked", "prompt-in-loss", "error",
    lambda world: world.batch(unmasked(world.rows())), learns="answers")
add("answers_without_an_end", "eos-missing", "error",
    lambda world: world.batch(world.rows(end=False), pad=0), only=WITH_BEGIN)
add("begun_twice", "double-bos", "warning",
    lambda world: world.batch([(world.begin + ids, [-100, *labels]) for ids, labels in world.rows()]), only=WITH_BEGIN)
add("never_begun", "bos-missing", "note",
    lambda world: world.batch([(ids[1:], labels[1:]) for ids, labels in world.rows()]), only=WITH_BEGIN)
add("left_padding_and_learned_positions", "padding-side", "warning",
    lambda world: world.good(side="left"), absolute_positions=True)
add("left_padding_can_be_read", "padding-attended", "error",
    changed(lambda batch: {"attention_mask": torch.ones_like(batch["attention_mask"])}, side="left", pad=0),
    only=WITH_BEGIN)
add("mask_of_the_other_side", "padding-attended", "error",
    lambda world: world.good(side="left", pad=0) | {"attention_mask": world.good()["attention_mask"]}, only=WITH_BEGIN)
add("mask_says_what_is_padding", "attention-mask-inverted", "warning",
    changed(lambda batch: {"attention_mask": 1 - batch["attention_mask"]}))
add("positions_all_zero", "positions-wrong", "error",
    changed(lambda batch: {"position_ids": torch.zeros_like(batch["input_ids"])}))
add("packed_and_nothing_said", "packed-without-boundaries", "warning", lambda world: world.packed(positions=False))
add("first_tokens_of_packed_samples_scored", "sample-start-scored", "warning",
    lambda world: world.packed(start_masked=False))
add("a_batch_again", "duplicated-rows", "warning",
    lambda world: [world.good(), world.batch(world.rows(first=ROWS)), world.good()])
add("padded_with_the_label_number", "ids-outside-vocabulary", "error",
    changed(lambda batch: {"input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}))
add("another_number_for_what_is_not_scored", "ids-outside-vocabulary", "warning",
    changed(lambda batch: {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -1)}))
# fmt: on
