"""Batches with nothing wrong in them, of as many shapes as trainers make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.doctor.batch_samples import ROWS, Batch, Row, World, changed

Make = Callable[[World], Any]


@dataclass(frozen=True)
class Good:
    name: str
    make: Make
    said: dict[str, Any] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()


GOOD: list[Good] = []


def add_good(name: str, make: Make, *notes: str, **said: Any) -> None:
    GOOD.append(Good(name, make, said, frozenset(notes)))


def good(*notes: str, **said: Any) -> Callable[[Make], Make]:
    """The same where it takes several lines."""

    def keep(make: Make) -> Make:
        add_good(make.__name__, make, *notes, **said)
        return make

    return keep


def copied(batch: Batch) -> Batch:
    """Everything scored but the padding."""
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@good()
def right_padding_without_a_mask(world):
    batch = world.good()
    del batch["attention_mask"]
    return batch


@good()
def left_padding_with_the_positions_of_generate(world):
    """cumsum - 1, and 1 on the padding."""
    batch = world.good(side="left")
    mask = batch["attention_mask"]
    return batch | {"position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)}


@good(learns="text", shifts="batch")
def windows_of_a_stream(world):
    """As nanoGPT cuts them: x and y are two views of one stream."""
    stream = world.stream()
    starts = range(0, 8 * 100, 100)
    return {
        "input_ids": torch.tensor([stream[at : at + 64] for at in starts]),
        "labels": torch.tensor([stream[at + 1 : at + 65] for at in starts]),
    }


@good()
def packed_with_a_numbered_mask(world):
    batch = world.packed()
    numbers = (batch["position_ids"] == 0).cumsum(-1)
    return {"input_ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": numbers}


@good()
def packed_with_a_mask_of_four_dimensions(world):
    batch = world.packed()
    samples = (batch.pop("position_ids") == 0).cumsum(-1)
    same = samples[:, None, :, None] == samples[:, None, None, :]
    return batch | {"attention_mask": torch.tril(same)}


@good()
def the_end_as_the_label_of_the_first_padding(world):
    """The model reads padding there, and is taught to end; nothing behind it is scored."""
    batch = world.batch(world.rows(end=False), to=400)
    labels = batch["labels"].clone()
    for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        labels[row, length] = world.eos
    return batch | {"labels": labels}


def chunks(stream: list[int], width: int) -> Batch:
    ids = torch.tensor(stream[: 8 * width]).view(8, width)
    return {"input_ids": ids, "labels": ids.clone()}


def parts(row: Row) -> tuple[Row, Row]:
    """Two answers: the first alone is scored, then the last alone."""
    ids, labels = row
    last = max(n for n in range(1, len(ids)) if labels[n] != -100 and labels[n - 1] == -100)
    return (ids, labels[:last] + [-100] * (len(ids) - last)), (ids, [-100] * last + labels[last:])


def two_begun(rows: list[Row]) -> list[Row]:
    """Two conversations a row, as Llama 2 begins every turn anew."""
    return [(one[0] + two[0], one[1] + two[1]) for one, two in zip(rows[::2], rows[1::2], strict=True)]


# fmt: off
add_good("shifted_in_the_batch_for_a_loop_that_does_not_shift",
    lambda world: {name: own[:, 1:] if name == "labels" else own[:, :-1] for name, own in world.good().items()},
    shifts="batch")
add_good("chunks_of_text", lambda world: chunks(world.stream(), 96), learns="text")
# As language models are pretrained: full attention over texts that an end token separates.
add_good("documents_one_after_another",
    lambda world: chunks([token for ids, _ in world.rows(3 * ROWS) for token in ids], 128),
    "packed-without-boundaries", learns="text")
add_good("packed_with_lengths",
    lambda world: world.packed(positions=False) | {"cu_seq_lens_q": torch.tensor([0, 10, 20])})
add_good("turns_each_with_a_begin_token", lambda world: world.batch(two_begun(world.turns(turns=1))))
add_good("only_the_last_answer_is_learned", lambda world: world.batch([parts(row)[1] for row in world.turns(6)]))
add_good("one_conversation_learned_in_two_parts",
    lambda world: world.batch([part for row in world.turns(4) for part in parts(row)]))
add_good("one_prompt_with_several_answers", lambda world: world.of(lambda n, p, a: (world.pairs[0][0], a)).good())
add_good("answers_of_one_token", lambda world: world.of(lambda n, p, a: (p, str(n))).good())
# All answers end in ###, and no end token is used.
add_good("an_end_of_ones_own",
    lambda world: world.batch(world.of(lambda n, p, a: (p, f"{a}\n###")).rows(end=False)))
add_good("unpadded_lists",
    lambda world: dict(zip(("input_ids", "labels"), map(list, zip(*world.rows(), strict=True)), strict=True)))
add_good("a_data_loader",
    lambda world: torch.utils.data.DataLoader(world.rows(2 * ROWS), batch_size=4, collate_fn=world.batch))
add_good("a_single_row",
    lambda world: dict(zip(("input_ids", "labels"), map(torch.tensor, world.rows()[0]), strict=True)))
# The data spells a special token and a marker; both stay text.
add_good("a_text_that_speaks_of_markers", lambda world: world.of(
    lambda n, p, a: (f"What do <|im_start|>user and <|im_start|>assistant mean? {p}" if n == 0 else p, a)).good())
add_good("answers_that_repeat_the_prompt", lambda world: world.of(lambda n, p, a: (p, p)).good())
add_good("answers_of_one_repeated_word", lambda world: world.of(lambda n, p, a: (p, "no " * (20 + n) + "no")).good())
add_good("right_padding_with_the_end_token", lambda world: world.good(), shifts="model", learns="answers")
add_good("left_padding", lambda world: world.good(side="left"))
add_good("left_padding_with_positions",
    changed(lambda batch: {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)}, side="left"),
    absolute_positions=True)
add_good("right_padding_and_learned_positions", lambda world: world.good(), absolute_positions=True)
add_good("another_padding_token", lambda world: world.good(pad=3), pad_id=3)
add_good("padded_to_a_fixed_length", lambda world: world.good(to=640))
add_good("a_mask_of_booleans", changed(lambda batch: {"attention_mask": batch["attention_mask"].bool()}))
add_good("whole_texts_are_learned", lambda world: copied(world.good()), "prompt-in-loss")
add_good("whole_texts_are_learned_and_it_is_said", lambda world: copied(world.good()), learns="text")
add_good("packed_with_positions", lambda world: world.packed())
add_good("several_answers_in_a_row", lambda world: world.batch(world.turns(6, turns=3)))
add_good("several_answers_in_words",
    lambda world: world.batch(world.chat("\nUser: {}", "\nAssistant:", [world.eos], turns=3, count=6)))
add_good("a_template_in_words", lambda world: world.batch(world.instructions()), learns="answers")
add_good("several_batches",
    lambda world: [world.good(), world.batch(world.rows(first=ROWS)), world.batch(world.rows(first=2 * ROWS))])
add_good("arrays", lambda world: {key: tensor.numpy() for key, tensor in world.good().items()})
add_good("another_ignored_number",
    changed(lambda batch: {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -1)}), ignore_index=-1)
# fmt: on
