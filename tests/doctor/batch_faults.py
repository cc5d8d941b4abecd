"""Batches that are spoiled in one way each, and the id under which that has to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.doctor.batch_samples import ROWS, Batch, World

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


def fault(id: str, severity: str, *, only: tuple[str, ...] = (), **said: Any) -> Callable[[Spoil], Spoil]:
    def keep(spoil: Spoil) -> Spoil:
        FAULTS.append(Fault(spoil.__name__, id, severity, spoil, said, only))
        return spoil

    return keep


def rolled(world: World, by: int) -> Batch:
    batch = world.good()
    labels = torch.full_like(batch["labels"], -100)
    if by > 0:
        labels[:, :-by] = batch["labels"][:, by:]
    else:
        labels[:, -by:] = batch["labels"][:, :by]
    return batch | {"labels": labels}


SPANISH = ("tinyllama-1.1b", "mistral-7b-v0.1", "tok512")


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


@fault("answer-at-prompt-positions", "error")
def prompt_in_answer_out_without_mask(world):
    batch = prompt_in_answer_out(world)
    del batch["attention_mask"]
    return batch


@fault("labels-shifted-twice", "error", shifts="model")
def shifted_in_the_data(world):
    return rolled(world, 1)


@fault("labels-shifted-twice", "error")
def shifted_in_the_data_and_nobody_says_who_shifts(world):
    return rolled(world, 1)


@fault("labels-shifted-twice", "error", shifts="model")
def rolled_in_the_data(world):
    batch = world.good()
    return batch | {"labels": torch.roll(batch["labels"], -1, dims=1)}


@fault("labels-shifted-twice", "error", shifts="batch")
def shifted_by_two(world):
    return rolled(world, 2)


@fault("labels-shifted-wrong-way", "error")
def shifted_back(world):
    return rolled(world, -1)


@fault("labels-shifted-wrong-way", "error", shifts="batch")
def rolled_back_by_who_should_shift(world):
    batch = world.good()
    return batch | {"labels": batch["labels"].roll(1, dims=1)}


@fault("labels-not-shifted", "error", shifts="batch")
def nobody_shifts(world):
    return world.good()


@fault("labels-misaligned", "error")
def padded_on_two_sides(world):
    left, right = world.good(side="left"), world.good()
    return left | {"labels": right["labels"]}


@fault("labels-of-other-rows", "error")
def shuffled_apart(world):
    rows = [(ids[:60], ids[:60]) for ids, _ in world.rows()]
    batch = world.batch(rows)
    return batch | {"labels": batch["labels"].roll(1, dims=0)}


@fault("labels-not-inputs", "warning")
def another_version_of_the_answer(world):
    batch = world.good()
    labels = batch["labels"].clone()
    places = (labels != -100).nonzero()[::4]
    labels[places[:, 0], places[:, 1]] = batch["input_ids"][0, 1]
    return batch | {"labels": labels}


@fault("all-masked-rows", "warning")
def some_prompts_fill_the_row(world):
    batch = world.good()
    labels = batch["labels"].clone()
    labels[:3] = -100
    return batch | {"labels": labels}


@fault("all-masked-rows", "error")
def nothing_is_scored(world):
    batch = world.good()
    return batch | {"labels": torch.full_like(batch["labels"], -100)}


@fault("padding-in-loss", "error")
def padding_scored(world):
    batch = world.good()
    return batch | {"labels": torch.where(batch["attention_mask"] == 0, batch["input_ids"], batch["labels"])}


@fault("padding-in-loss", "error")
def padding_scored_on_the_left(world):
    batch = world.good(side="left")
    return batch | {"labels": torch.where(batch["attention_mask"] == 0, batch["input_ids"], batch["labels"])}


@fault("padding-in-loss", "error", only=("tinyllama-1.1b", "mistral-7b-v0.1", "tok512"))
def labels_are_a_copy_and_nothing_is_masked(world):
    batch = world.good(pad=0)
    return {"input_ids": batch["input_ids"], "labels": batch["input_ids"].clone()}


@fault("padding-in-loss", "error")
def labels_are_a_copy_and_padding_is_the_end(world):
    batch = world.good()
    return {"input_ids": batch["input_ids"], "labels": batch["input_ids"].clone()}


@fault("prompt-in-loss", "error", learns="answers")
def no_prompt_is_masked(world):
    return world.batch([(ids, list(ids)) for ids, _ in world.rows()])


@fault("prompt-in-loss", "warning")
def some_prompts_are_not_masked(world):
    rows = world.rows()
    return world.batch([(ids, list(ids)) if n % 2 else (ids, labels) for n, (ids, labels) in enumerate(rows)])


@fault("prompt-in-loss", "warning")
def a_template_shows_that_prompts_are_scored(world):
    rows = world.chat("### Instruction:\n{}\n\n", "### Response:\n", [world.eos])
    return world.batch([(ids, list(ids)) for ids, _ in rows])


@fault("mask-inverted", "error")
def mask_the_wrong_way_round(world):
    rows = world.rows()
    return world.batch(
        [(ids, [i if label == -100 else -100 for i, label in zip(ids, labels, strict=True)]) for ids, labels in rows]
    )


@fault("mask-inverted", "error", learns="answers")
def mask_the_wrong_way_round_in_a_template(world):
    rows = world.chat("[INST] {} ", "[/INST]", [world.eos], turns=2)
    return world.batch(
        [(ids, [i if label == -100 else -100 for i, label in zip(ids, labels, strict=True)]) for ids, labels in rows]
    )


@fault("answer-start-not-scored", "warning")
def mask_shifted_with_the_labels(world):
    made = []
    for ids, labels in world.chat("### Instruction:\n{}\n\n", "### Response:\n", [world.eos]):
        first = next(n for n, label in enumerate(labels) if label != -100)
        made.append((ids, [-100 if n < first + 2 else label for n, label in enumerate(labels)]))
    return world.batch(made)


@fault("eos-not-scored", "error")
def end_masked_by_id(world):
    batch = world.good()
    return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == world.eos, -100)}


@fault("eos-not-scored", "error")
def end_and_attention_masked_by_id(world):
    batch = world.good()
    ends = batch["input_ids"] == world.eos
    return batch | {"labels": batch["labels"].masked_fill(ends, -100), "attention_mask": (~ends).long()}


@fault("eos-not-scored", "error")
def end_masked_by_id_without_an_attention_mask(world):
    batch = end_masked_by_id(world)
    del batch["attention_mask"]
    return batch


@fault("eos-missing", "error", only=SPANISH)
def answers_without_an_end(world):
    return world.batch(world.rows(end=False), pad=0)


@fault("answers-truncated", "warning")
def longest_answers_are_cut(world):
    rows = world.rows()
    most = sorted(len(ids) for ids, _ in rows)[ROWS // 2]
    return world.batch([(ids[:most], labels[:most]) for ids, labels in rows])


@fault("double-bos", "warning", only=SPANISH)
def begun_twice(world):
    return world.batch([(world.begin + ids, [-100, *labels]) for ids, labels in world.rows()])


@fault("bos-missing", "note", only=SPANISH)
def never_begun(world):
    return world.batch([(ids[1:], labels[1:]) for ids, labels in world.rows()])


@fault("padding-side", "warning", absolute_positions=True)
def left_padding_and_learned_positions(world):
    return world.good(side="left")


@fault("padding-side", "error", absolute_positions=True)
def left_padding_and_positions_that_count_it(world):
    batch = world.good(side="left")
    width = batch["input_ids"].shape[1]
    return batch | {"position_ids": torch.arange(width).repeat(ROWS, 1)}


@fault("padding-attended", "error", only=SPANISH)
def left_padding_can_be_read(world):
    batch = world.good(side="left", pad=0)
    return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}


@fault("padding-attended", "error", only=SPANISH)
def mask_of_the_other_side(world):
    return world.good(side="left", pad=0) | {"attention_mask": world.good()["attention_mask"]}


@fault("padding-attended", "warning")
def left_padding_without_a_mask(world):
    batch = world.good(side="left")
    del batch["attention_mask"]
    return batch


@fault("tokens-hidden", "warning")
def ends_of_turns_hidden_by_id(world):
    batch = world.batch(world.chat("[INST] {} ", "[/INST]", [world.eos], turns=2))
    return batch | {"attention_mask": (batch["input_ids"] != world.eos).long()}


@fault("attention-mask-inverted", "warning")
def mask_says_what_is_padding(world):
    batch = world.good()
    return batch | {"attention_mask": 1 - batch["attention_mask"]}


@fault("positions-wrong", "error")
def positions_all_zero(world):
    batch = world.good()
    return batch | {"position_ids": torch.zeros_like(batch["input_ids"])}


@fault("positions-wrong", "warning")
def positions_jump(world):
    batch = world.good()
    places = torch.arange(batch["input_ids"].shape[1]).repeat(ROWS, 1)
    places[:, 10:] += 7
    return batch | {"position_ids": places}


@fault("packed-without-boundaries", "warning")
def packed_and_nothing_said(world):
    return world.packed(positions=False)


@fault("packed-without-boundaries", "warning")
def packed_and_positions_go_on(world):
    batch = world.packed(positions=False)
    width = batch["input_ids"].shape[1]
    return batch | {"position_ids": torch.arange(width).repeat(2, 1), "attention_mask": torch.ones(2, width).long()}


@fault("sample-start-scored", "warning")
def first_tokens_of_packed_samples_scored(world):
    return world.packed(start_masked=False)


@fault("duplicated-rows", "warning")
def one_row_again(world):
    rows = world.rows()
    return world.batch([*rows[:-2], rows[0], rows[1]])


@fault("duplicated-rows", "warning")
def a_batch_again(world):
    return [world.good(), world.batch(world.rows(first=ROWS)), world.good()]


@fault("ids-outside-vocabulary", "error")
def padded_with_the_label_number(world):
    batch = world.good()
    return batch | {"input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@fault("ids-outside-vocabulary", "error")
def a_token_that_was_added_elsewhere(world):
    rows = [([*ids[:-1], 60_000], [*labels[:-1], 60_000]) for ids, labels in world.rows()]
    return world.batch(rows)


@fault("ids-outside-vocabulary", "warning")
def another_number_for_what_is_not_scored(world):
    batch = world.good()
    return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -1)}


@fault("unknown-tokens", "error", only=SPANISH)
def all_unknown(world):
    rows = [([i if n % 4 == 0 else 0 for n, i in enumerate(ids)], labels) for ids, labels in world.rows()]
    return world.batch(
        [(ids, [i if label != -100 else -100 for i, label in zip(ids, ls, strict=True)]) for ids, ls in rows]
    )


@fault("markers-in-pieces", "warning", only=("gpt2", "tok512"))
def markers_as_text(world):
    rows = world.chat("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n", world.text("<|im_end|>"))
    return world.batch(rows)
