"""Batches with nothing wrong in them, of as many shapes as trainers make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.doctor.batch_samples import ROWS, Batch, World

Make = Callable[[World], Any]


@dataclass(frozen=True)
class Good:
    name: str
    make: Make
    said: dict[str, Any] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()


GOOD: list[Good] = []


def good(*notes: str, **said: Any) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        GOOD.append(Good(make.__name__, make, said, frozenset(notes)))
        return make

    return keep


def copied(batch: Batch) -> Batch:
    """Everything scored but the padding."""
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@good(shifts="model", learns="answers")
def right_padding_with_the_end_token(world):
    return world.good()


@good()
def right_padding_without_a_mask(world):
    batch = world.good()
    del batch["attention_mask"]
    return batch


@good()
def left_padding(world):
    return world.good(side="left")


@good(absolute_positions=True)
def left_padding_with_positions(world):
    batch = world.good(side="left")
    return batch | {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)}


@good()
def left_padding_with_the_positions_of_generate(world):
    """cumsum - 1, and 1 on the padding."""
    batch = world.good(side="left")
    mask = batch["attention_mask"]
    return batch | {"position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)}


@good(absolute_positions=True)
def right_padding_and_learned_positions(world):
    return world.good()


@good(pad_id=3)
def another_padding_token(world):
    return world.good(pad=3)


@good()
def padded_to_a_fixed_length(world):
    return world.good(to=640)


@good()
def a_mask_of_booleans(world):
    batch = world.good()
    return batch | {"attention_mask": batch["attention_mask"].bool()}


@good(shifts="batch")
def shifted_in_the_batch_for_a_loop_that_does_not_shift(world):
    batch = world.good()
    return {
        "input_ids": batch["input_ids"][:, :-1],
        "labels": batch["labels"][:, 1:],
        "attention_mask": batch["attention_mask"][:, :-1],
    }


@good(learns="text", shifts="batch")
def windows_of_a_stream(world):
    """As nanoGPT cuts them: x and y are two views of one stream."""
    stream = [token for ids, _ in world.rows(3 * ROWS) for token in ids[len(world.begin) : -1]]
    starts = range(0, 8 * 100, 100)
    return {
        "input_ids": torch.tensor([stream[at : at + 64] for at in starts]),
        "labels": torch.tensor([stream[at + 1 : at + 65] for at in starts]),
    }


@good(learns="text")
def chunks_of_text(world):
    stream = [token for ids, _ in world.rows(3 * ROWS) for token in ids[len(world.begin) : -1]]
    ids = torch.tensor(stream[: 8 * 96]).view(8, 96)
    return {"input_ids": ids, "labels": ids.clone()}


@good("packed-without-boundaries", learns="text")
def documents_one_after_another(world):
    """As language models are pretrained: full attention over texts that an end token separates."""
    stream = [token for ids, _ in world.rows(3 * ROWS) for token in ids]
    ids = torch.tensor(stream[: 8 * 128]).view(8, 128)
    return {"input_ids": ids, "labels": ids.clone()}


@good("prompt-in-loss")
def whole_texts_are_learned(world):
    return copied(world.good())


@good(learns="text")
def whole_texts_are_learned_and_it_is_said(world):
    return copied(world.good())


@good()
def packed_with_positions(world):
    return world.packed()


@good()
def packed_with_a_numbered_mask(world):
    batch = world.packed()
    numbers = (batch["position_ids"] == 0).cumsum(-1)
    return {"input_ids": batch["input_ids"], "labels": batch["labels"], "attention_mask": numbers}


@good()
def packed_with_lengths(world):
    batch = world.packed(positions=False)
    return batch | {"cu_seq_lens_q": torch.tensor([0, 10, 20])}


@good()
def packed_with_a_mask_of_four_dimensions(world):
    batch = world.packed()
    samples = (batch.pop("position_ids") == 0).cumsum(-1)
    same = samples[:, None, :, None] == samples[:, None, None, :]
    return batch | {"attention_mask": torch.tril(same)}


@good()
def several_answers_in_a_row(world):
    return world.batch(world.chat("[INST] {} ", "[/INST]", [world.eos], turns=3, count=6))


@good()
def several_answers_in_words(world):
    return world.batch(world.chat("\nUser: {}", "\nAssistant:", [world.eos], turns=3, count=6))


@good()
def turns_each_with_a_begin_token(world):
    """Llama 2 begins every turn anew."""
    made = []
    for first in range(0, ROWS, 2):
        rows = world.chat("[INST] {} ", "[/INST]", [world.eos], count=first + 2)[first:]
        made.append((rows[0][0] + rows[1][0], rows[0][1] + rows[1][1]))
    return world.batch(made)


@good(learns="answers")
def a_template_in_words(world):
    return world.batch(world.chat("### Instruction:\n{}\n\n", "### Response:\n", [world.eos]))


@good()
def only_the_last_answer_is_learned(world):
    made = []
    for ids, labels in world.chat("[INST] {} ", "[/INST]", [world.eos], turns=2, count=6):
        last = max(n for n in range(1, len(ids)) if labels[n] != -100 and labels[n - 1] == -100)
        made.append((ids, [-100 if n < last else label for n, label in enumerate(labels)]))
    return world.batch(made)


@good()
def one_conversation_learned_in_two_parts(world):
    """The same text twice, and in each row another answer of it is scored."""
    made = []
    for ids, labels in world.chat("[INST] {} ", "[/INST]", [world.eos], turns=2, count=4):
        last = max(n for n in range(1, len(ids)) if labels[n] != -100 and labels[n - 1] == -100)
        made.append((ids, [-100 if n < last else label for n, label in enumerate(labels)]))
        made.append((ids, [label if n < last else -100 for n, label in enumerate(labels)]))
    return world.batch(made)


@good()
def one_prompt_with_several_answers(world):
    prompt = world.pairs[0][0]
    world = World(world.tokenizer, [(prompt, answer) for _, answer in world.pairs])
    return world.good()


@good()
def answers_of_one_token(world):
    pairs = [(prompt, str(number)) for number, (prompt, _) in enumerate(world.pairs)]
    return World(world.tokenizer, pairs).good()


@good()
def an_end_of_ones_own(world):
    """All answers end in ###, and no end token is used."""
    pairs = [(prompt, f"{answer}\n###") for prompt, answer in world.pairs]
    world = World(world.tokenizer, pairs)
    return world.batch(world.rows(end=False))


@good()
def the_end_as_the_label_of_the_first_padding(world):
    """The model reads padding there, and is taught to end; nothing behind it is scored."""
    batch = world.batch(world.rows(end=False), to=400)
    labels = batch["labels"].clone()
    for row, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        labels[row, length] = world.eos
    return batch | {"labels": labels}


@good()
def unpadded_lists(world):
    rows = world.rows()
    return {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}


@good()
def several_batches(world):
    return [world.good(), world.batch(world.rows(first=ROWS)), world.batch(world.rows(first=2 * ROWS))]


@good()
def a_data_loader(world):
    rows = world.rows(2 * ROWS)
    return torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=world.batch)


@good()
def a_single_row(world):
    ids, labels = world.rows()[0]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


@good()
def arrays(world):
    return {key: tensor.numpy() for key, tensor in world.good().items()}


@good(ignore_index=-1)
def another_ignored_number(world):
    batch = world.good()
    return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -1)}


@good()
def a_text_that_speaks_of_markers(world):
    """The data spells a special token and a marker; both stay text."""
    prompt, answer = world.pairs[0]
    pairs = [(f"What do <|im_start|>user and <|im_start|>assistant mean? {prompt}", answer), *world.pairs[1:]]
    return World(world.tokenizer, pairs).good()


@good()
def answers_that_repeat_the_prompt(world):
    pairs = [(prompt, prompt) for prompt, _ in world.pairs]
    return World(world.tokenizer, pairs).good()


@good()
def answers_of_one_repeated_word(world):
    pairs = [(prompt, "no " * (20 + number) + "no") for number, (prompt, _) in enumerate(world.pairs)]
    return World(world.tokenizer, pairs).good()
