"""Faults of batches: what is scored, what is attended to, and where labels lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.doctor.grammar import Mutations, Random
from bench.doctor.rows import IGNORED
from bench.doctor.world_batch import Batch, Batches, Row

RULES: Mutations[Batches] = Mutations()
OfRow = Callable[[Row], None]
OfBatch = Callable[[Batch, Batch, Random], None]


def to_rows(made: Batches, change: Callable[[list[Row], PreTrainedTokenizerFast, Random], None]) -> Batches:
    """A further change to the rows."""
    return replace(made, of_rows=(*made.of_rows, change))


def to_each(made: Batches, change: OfRow, share: float = 1.0) -> Batches:
    """A change to a share of the rows, at least one."""

    def of_rows(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
        for row in draw.sample(rows, max(1, round(share * len(rows)))):
            change(row)

    return to_rows(made, of_rows)


def to_batches(made: Batches, change: OfBatch) -> Batches:
    """A further change to what is collated; it is given the right batch too."""
    return replace(made, of_batches=(*made.of_batches, change))


def to_column(made: Batches, name: str, value: Callable[[Batch], Tensor]) -> Batches:
    """A column of what is collated is made anew, of the right batch."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch[name] = value(true)

    return to_batches(made, change)


def told(made: Batches) -> Batches:
    """The doctor is told what is learned, and what shifts."""
    return replace(made, told=True)


def of_answers(made: Batches) -> bool:
    """The answers alone are learned."""
    return made.learns == "answers"


def one_turn(made: Batches) -> bool:
    """The answers alone are learned, one a row."""
    return of_answers(made) and made.turns == 1


def padded(made: Batches) -> bool:
    """Rows are padded, and not packed."""
    return made.padded


def masked(made: Batches) -> bool:
    """Rows are padded, and have an attention mask."""
    return made.padded and made.mask


def score(row: Row, places: Sequence[int], *, yes: bool) -> None:
    """Score these tokens, or mask them."""
    for place in places:
        row.labels[place] = row.ids[place] if yes else IGNORED


def _parts(*parts: str, yes: bool) -> OfRow:
    return lambda row: score(row, row.places(*parts), yes=yes)


def _later_questions(row: Row) -> None:
    score(row, [place for place in row.places("prompt") if place > row.starts()[0]], yes=True)


def _inverted(row: Row) -> None:
    score(row, row.places("answer", "end"), yes=False)
    score(row, row.places("prompt"), yes=True)


def _longer(by: int) -> OfRow:
    return lambda row: score(
        row, [at + i for at in row.starts() for i in range(by) if at + i < len(row.ids)], yes=False
    )


def _shorter(by: int) -> OfRow:
    return lambda row: score(row, [at - i for at in row.starts() for i in range(1, by + 1)], yes=True)


def _moved(by: int) -> OfRow:
    def change(row: Row) -> None:
        fill = [IGNORED] * min(abs(by), len(row.ids))
        row.labels = [*row.labels[by:], *fill] if by > 0 else [*fill, *row.labels[:by]]

    return change


def _other_lengths(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
    lengths = [row.starts()[0] for row in rows]
    draw.shuffle(lengths)
    for row, length in zip(rows, lengths, strict=True):
        row.labels = [IGNORED] * min(length, len(row.ids)) + row.ids[length:]


def _beside_prompts(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int), "the set-ups have a padding token"
    for row in rows:
        read = [row.ids[place] for place in row.places("begin", "prompt")]
        answer = [row.ids[place] for place in row.places("answer", "end")]
        width = max(len(read), len(answer))
        row.ids, row.labels = (read + [pad] * (width - len(read)), answer + [IGNORED] * (width - len(answer)))
        row.parts = ["prompt"] * width


def _dropped(share: float) -> OfBatch:
    def change(batch: Batch, true: Batch, draw: Random) -> None:
        torch.manual_seed(draw.randrange(10**6))
        batch["attention_mask"] = true["attention_mask"] * (torch.rand(true["labels"].shape) > share).long()

    return change


def _added(true: Batch) -> Tensor:
    return (1 - true["attention_mask"].float()) * torch.finfo(torch.float32).min


def _of_an_encoder(true: Batch) -> Tensor:
    return true["attention_mask"][:, None, None].bool().expand(-1, 1, true["labels"].shape[1], -1)


def _other_side(made: Batches) -> OfBatch:
    def change(batch: Batch, true: Batch, _: Random) -> None:
        for row, shown in enumerate(true["attention_mask"].sum(1).tolist()):
            by = true["labels"].shape[1] - shown
            batch["labels"][row] = true["labels"][row].roll(by if made.side == "right" else -by)

    return change


def _padding_scored(batch: Batch, true: Batch, _: Random) -> None:
    fill = true["attention_mask"] == 0
    batch["labels"][fill] = batch["input_ids"][fill]


def _rolled(by: int) -> Callable[[Batch], Tensor]:
    return lambda true: true["labels"].roll(by, 0)


def _away(made: Batches, by: int, right: int) -> Batches:
    """Labels so many positions away; where the batch moves them, from `right`."""
    return replace(made, moves=right + by) if made.shifts == "batch" else to_each(made, _moved(by))


add = RULES.add
# fmt: off

# ---------------------------------------------------------------- mask

# One of several sources comes without a mask of its prompts.
add("mask", "prompts-scored-in-some-rows", "prompt-in-loss",
    lambda made, draw: to_each(told(made), _parts("prompt", yes=True), draw.choice((0.3, 0.6, 1.0))), one_turn)
# Everything behind the first answer is learned.
add("mask", "later-questions-scored", "prompt-in-loss",
    lambda made, draw: to_each(told(made), _later_questions), lambda made: of_answers(made) and made.turns > 1)
# A mask that is 1 for the prompt is read as 1 for the answer.
add("mask", "scored-is-what-should-be-masked", "mask-inverted",
    lambda made, draw: to_each(told(made), _inverted), of_answers, beside="prompt-in-loss")
# The prompt comes out some tokens longer where it is measured.
add("mask", "mask-is-too-long", "answer-start-not-scored",
    lambda made, draw: to_each(made, _longer(draw.choice((1, 1, 2, 3, 5)))), of_answers)
# The prompt is measured without its BOS, or without what the template puts behind it.
add("mask", "mask-is-too-short", "prompt-end-scored answer-header-scored",
    lambda made, draw: to_each(made, _shorter(draw.choice((1, 1, 2, 3)))), of_answers)
# The lengths of the prompts were sorted, or shuffled, and the rows were not.
add("mask", "lengths-of-other-prompts", "prompt-in-loss prompt-end-scored answer-start-not-scored",
    lambda made, draw: to_rows(told(made), _other_lengths), one_turn, beside="all-masked-rows eos-not-scored")
# Labels that equal the padding's or the frame's token are masked.
add("mask", "ends-masked", "eos-not-scored",
    lambda made, draw: to_each(made, _parts("end", yes=False), draw.choice((0.5, 1.0, 1.0))), of_answers)
# != where == was meant.
add("mask", "ends-alone-scored", "answer-start-not-scored answers-one-token",
    lambda made, draw: to_each(made, _parts("answer", yes=False)), one_turn)
# The marker of the answer was not found in them.
add("mask", "nothing-scored-in-some-rows", "all-masked-rows",
    lambda made, draw: to_each(made, lambda row: score(row, range(len(row.ids)), yes=False),
                               draw.choice((0.2, 0.5, 1.0))), lambda made: made.packing == "none")
# labels = input_ids.clone(), and the prompt alone is masked.
add("mask", "padding-scored", "padding-in-loss", lambda made, draw: to_batches(made, _padding_scored), padded)
# attention_mask = torch.ones_like(input_ids), or none at all, padded left.
add("mask", "padding-shown", "padding-attended",
    lambda made, draw: to_column(made, "attention_mask", lambda true: torch.ones_like(true["input_ids"])),
    lambda made: masked(made) and made.side == "left")
# torch's key_padding_mask for a model of transformers.
add("mask", "one-means-padding", "attention-mask-inverted",
    lambda made, draw: to_column(made, "attention_mask", lambda true: 1 - true["attention_mask"]), masked)
# The mask is made of the labels: what is not scored is hidden.
add("mask", "attention-made-of-labels", "tokens-hidden",
    lambda made, draw: to_column(made, "attention_mask", lambda true: (true["labels"] != IGNORED).long()),
    lambda made: masked(made) and of_answers(made) and made.shifts == "model")
# Dropout on the attention mask, "as augmentation".
add("mask", "tokens-dropped-from-attention", "tokens-hidden",
    lambda made, draw: to_batches(made, _dropped(draw.choice((0.03, 0.1, 0.3)))), masked)
# 0 and the lowest number, in two dimensions.
add("mask", "mask-made-to-be-added", "attention-mask-kind",
    lambda made, draw: to_column(replace(made, form="tensors"), "attention_mask", _added), masked)
# Four dimensions, and nothing in it is causal.
add("mask", "mask-of-an-encoder", "attention-mask-looks-ahead",
    lambda made, draw: to_column(replace(made, form="tensors"), "attention_mask", _of_an_encoder), masked)

# ---------------------------------------------------------------- shift

# All rows, or those of one source.
add("shift", "shifted-for-a-model-that-shifts", "labels-shifted-twice labels-misaligned",
    lambda made, draw: to_each(made, _moved(1), draw.choice((0.5, 1.0, 1.0))), lambda made: made.shifts == "model")
# The labels stand in place, and the loop does not move them.
add("shift", "nobody-shifts", "labels-not-shifted",
    lambda made, draw: replace(made, moves=0), lambda made: made.shifts == "batch")
# torch.roll(labels, 1).
add("shift", "moved-the-wrong-way", "labels-shifted-wrong-way", lambda made, draw: _away(made, -1, 0))
# A prefix was put before the ids, or cut from them, after the labels were made.
add("shift", "labels-some-positions-away", "labels-misaligned",
    lambda made, draw: _away(made, draw.choice((-6, -4, -3, 3, 4, 5, 7)), 1))
# The ids were shuffled, or sorted by length, and the labels were not.
add("shift", "labels-in-another-order", "labels-of-other-rows",
    lambda made, draw: to_column(made, "labels", _rolled(draw.choice((1, 2, 3)))),
    lambda made: made.padded and made.size >= 4)
# The prompt is read, the answer is the label, both from position 0.
add("shift", "answers-beside-their-prompts", "answer-at-prompt-positions",
    lambda made, draw: to_rows(made, _beside_prompts),
    lambda made: made.padded and one_turn(made) and made.shifts == "model")
# tokenizer.pad goes by its padding_side, pad_sequence always fills on the right.
add("shift", "labels-padded-on-the-other-side", "labels-misaligned labels-not-inputs",
    lambda made, draw: to_batches(made, _other_side(made)), padded)
# fmt: on
