"""Faults of batches: what is scored, what is attended to, and where labels and positions lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerFast

from bench.doctor.grammar import Mutations, Random
from bench.doctor.rows import IGNORED
from bench.doctor.world_batch import Batch, Batches, Row

RULES: Mutations[Batches] = Mutations()
OfRows = Callable[[list[Row], PreTrainedTokenizerFast, Random], None]
OfBatch = Callable[[Batch, Batch, Random], None]


def to_rows(made: Batches, change: OfRows) -> Batches:
    """A further change to the rows."""
    return replace(made, of_rows=(*made.of_rows, change))


def to_each(made: Batches, change: Callable[[Row], None], share: float = 1.0) -> Batches:
    """A change to a share of the rows, at least one."""

    def of_rows(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
        for row in draw.sample(rows, max(1, round(share * len(rows)))):
            change(row)

    return to_rows(made, of_rows)


def to_batches(made: Batches, change: OfBatch) -> Batches:
    """A further change to what is collated."""
    return replace(made, of_batches=(*made.of_batches, change))


def of_answers(made: Batches) -> bool:
    """The answers alone are learned."""
    return made.learns == "answers"


def _masked(made: Batches) -> bool:
    return made.padded and made.mask


def score(row: Row, places: Sequence[int], *, yes: bool) -> None:
    """Score these tokens, or mask them."""
    for place in places:
        row.labels[place] = row.ids[place] if yes else IGNORED


# ---------------------------------------------------------------- mask


@RULES.rule("mask", "prompt-in-loss", fits=lambda made: of_answers(made) and made.turns == 1)
def prompts_scored_in_some_rows(made: Batches, draw: Random) -> Batches:
    """One of several sources comes without a mask of its prompts."""
    share = draw.choice((0.3, 0.6, 1.0))
    return to_each(replace(made, told=True), lambda row: score(row, row.places("prompt"), yes=True), share)


@RULES.rule("mask", "prompt-in-loss", fits=lambda made: of_answers(made) and made.turns > 1)
def later_questions_scored(made: Batches, draw: Random) -> Batches:
    """Everything behind the first answer is learned."""

    def change(row: Row) -> None:
        score(row, [place for place in row.places("prompt") if place > row.starts()[0]], yes=True)

    return to_each(replace(made, told=True), change)


@RULES.rule("mask", "mask-inverted", fits=of_answers, beside=["prompt-in-loss"])
def scored_is_what_should_be_masked(made: Batches, draw: Random) -> Batches:
    """A mask that is 1 for the prompt is read as 1 for the answer."""

    def change(row: Row) -> None:
        score(row, row.places("answer", "end"), yes=False)
        score(row, row.places("prompt"), yes=True)

    return to_each(replace(made, told=True), change)


@RULES.rule("mask", "answer-start-not-scored", fits=of_answers)
def mask_is_too_long(made: Batches, draw: Random) -> Batches:
    """The prompt comes out some tokens longer where it is measured."""
    by = draw.choice((1, 1, 2, 3, 5))
    return to_each(
        made,
        lambda row: score(row, [at + i for at in row.starts() for i in range(by) if at + i < len(row.ids)], yes=False),
    )


@RULES.rule("mask", "prompt-end-scored", "answer-header-scored", fits=of_answers)
def mask_is_too_short(made: Batches, draw: Random) -> Batches:
    """The prompt is measured without its BOS, or without what the template puts behind it."""
    by = draw.choice((1, 1, 2, 3))
    return to_each(made, lambda row: score(row, [at - i for at in row.starts() for i in range(1, by + 1)], yes=True))


@RULES.rule(
    "mask",
    "prompt-in-loss",
    "prompt-end-scored",
    "answer-start-not-scored",
    fits=lambda made: of_answers(made) and made.turns == 1,
    beside=["all-masked-rows", "eos-not-scored"],
)
def lengths_of_other_prompts(made: Batches, draw: Random) -> Batches:
    """The lengths of the prompts were sorted, or shuffled, and the rows were not."""

    def change(rows: list[Row], _: PreTrainedTokenizerFast, inner: Random) -> None:
        lengths = [row.starts()[0] for row in rows]
        inner.shuffle(lengths)
        for row, length in zip(rows, lengths, strict=True):
            row.labels = [IGNORED] * min(length, len(row.ids)) + row.ids[length:]

    return to_rows(replace(made, told=True), change)


@RULES.rule("mask", "eos-not-scored", fits=of_answers)
def ends_masked(made: Batches, draw: Random) -> Batches:
    """Labels that equal the padding's or the frame's token are masked."""
    return to_each(made, lambda row: score(row, row.places("end"), yes=False), draw.choice((0.5, 1.0, 1.0)))


@RULES.rule(
    "mask", "answer-start-not-scored", "answers-one-token", fits=lambda made: of_answers(made) and made.turns == 1
)
def ends_alone_scored(made: Batches, draw: Random) -> Batches:
    """!= where == was meant."""
    return to_each(made, lambda row: score(row, row.places("answer"), yes=False))


@RULES.rule("mask", "all-masked-rows", fits=lambda made: made.packing == "none")
def nothing_scored_in_some_rows(made: Batches, draw: Random) -> Batches:
    """The marker of the answer was not found in them."""
    share = draw.choice((0.2, 0.5, 1.0))
    return to_each(made, lambda row: score(row, range(len(row.ids)), yes=False), share)


@RULES.rule("mask", "padding-in-loss", fits=lambda made: made.padded)
def padding_scored(made: Batches, draw: Random) -> Batches:
    """labels = input_ids.clone(), and the prompt alone is masked."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        fill = true["attention_mask"] == 0
        batch["labels"][fill] = batch["input_ids"][fill]

    return to_batches(made, change)


def _shown(batch: Batch, true: Batch, draw: Random) -> None:
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])


def _other_way(batch: Batch, true: Batch, draw: Random) -> None:
    batch["attention_mask"] = 1 - true["attention_mask"]


def _of_labels(batch: Batch, true: Batch, draw: Random) -> None:
    batch["attention_mask"] = (batch["labels"] != IGNORED).long()


def _added(batch: Batch, true: Batch, draw: Random) -> None:
    batch["attention_mask"] = (1 - true["attention_mask"].float()) * torch.finfo(torch.float32).min


def _of_an_encoder(batch: Batch, true: Batch, draw: Random) -> None:
    batch["attention_mask"] = true["attention_mask"][:, None, None].bool().expand(-1, 1, true["labels"].shape[1], -1)


@RULES.rule("mask", "padding-attended", fits=lambda made: _masked(made) and made.side == "left")
def padding_shown(made: Batches, draw: Random) -> Batches:
    """attention_mask = torch.ones_like(input_ids), or none at all, padded left."""
    return to_batches(made, _shown)


@RULES.rule("mask", "attention-mask-inverted", fits=_masked)
def one_means_padding(made: Batches, draw: Random) -> Batches:
    """torch's key_padding_mask for a model of transformers."""
    return to_batches(made, _other_way)


@RULES.rule("mask", "tokens-hidden", fits=lambda made: _masked(made) and of_answers(made) and made.shifts == "model")
def attention_made_of_labels(made: Batches, draw: Random) -> Batches:
    """attention_mask = labels != -100."""
    return to_batches(made, _of_labels)


@RULES.rule("mask", "tokens-hidden", fits=_masked)
def tokens_dropped_from_attention(made: Batches, draw: Random) -> Batches:
    """Dropout on the attention mask, "as augmentation"."""
    share = draw.choice((0.03, 0.1, 0.3))

    def change(batch: Batch, true: Batch, inner: Random) -> None:
        torch.manual_seed(inner.randrange(10**6))
        batch["attention_mask"] = true["attention_mask"] * (torch.rand(true["labels"].shape) > share).long()

    return to_batches(made, change)


@RULES.rule("mask", "attention-mask-kind", fits=_masked)
def mask_made_to_be_added(made: Batches, draw: Random) -> Batches:
    """0 and the lowest number, in two dimensions."""
    return to_batches(replace(made, form="tensors"), _added)


@RULES.rule("mask", "attention-mask-looks-ahead", fits=_masked)
def mask_of_an_encoder(made: Batches, draw: Random) -> Batches:
    """Four dimensions, and nothing in it is causal."""
    return to_batches(replace(made, form="tensors"), _of_an_encoder)


# ---------------------------------------------------------------- shift


def _move(row: Row, by: int) -> None:
    fill = [IGNORED] * min(abs(by), len(row.ids))
    row.labels = [*row.labels[by:], *fill] if by > 0 else [*fill, *row.labels[:by]]


@RULES.rule("shift", "labels-shifted-twice", "labels-misaligned", fits=lambda made: made.shifts == "model")
def shifted_for_a_model_that_shifts(made: Batches, draw: Random) -> Batches:
    """All rows, or those of one source."""
    return to_each(made, lambda row: _move(row, 1), draw.choice((0.5, 1.0, 1.0)))


@RULES.rule("shift", "labels-not-shifted", fits=lambda made: made.shifts == "batch")
def nobody_shifts(made: Batches, draw: Random) -> Batches:
    """The labels stand in place, and the loop does not move them."""
    return replace(made, moves=0)


@RULES.rule("shift", "labels-shifted-wrong-way")
def moved_the_wrong_way(made: Batches, draw: Random) -> Batches:
    """torch.roll(labels, 1)."""
    return replace(made, moves=-1) if made.shifts == "batch" else to_each(made, lambda row: _move(row, -1))


@RULES.rule("shift", "labels-misaligned")
def labels_some_positions_away(made: Batches, draw: Random) -> Batches:
    """A prefix was put before the ids, or cut from them, after the labels were made."""
    by = draw.choice((-6, -4, -3, 3, 4, 5, 7))
    return replace(made, moves=1 + by) if made.shifts == "batch" else to_each(made, lambda row: _move(row, by))


@RULES.rule("shift", "labels-of-other-rows", fits=lambda made: made.padded and made.size >= 4)
def labels_in_another_order(made: Batches, draw: Random) -> Batches:
    """The ids were shuffled, or sorted by length, and the labels were not."""
    by = draw.choice((1, 2, 3))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["labels"] = true["labels"].roll(by, 0)

    return to_batches(made, change)


@RULES.rule(
    "shift",
    "answer-at-prompt-positions",
    fits=lambda made: made.padded and of_answers(made) and made.turns == 1 and made.shifts == "model",
)
def answers_beside_their_prompts(made: Batches, draw: Random) -> Batches:
    """The prompt is read, the answer is the label, both from position 0."""

    def change(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int), "the set-ups have a padding token"
        for row in rows:
            read = [row.ids[place] for place in row.places("begin", "prompt")]
            told = [row.ids[place] for place in row.places("answer", "end")]
            width = max(len(read), len(told))
            row.ids, row.labels = (read + [pad] * (width - len(read)), told + [IGNORED] * (width - len(told)))
            row.parts = ["prompt"] * width

    return to_rows(made, change)


@RULES.rule("shift", "labels-misaligned", "labels-not-inputs", fits=lambda made: made.padded)
def labels_padded_on_the_other_side(made: Batches, draw: Random) -> Batches:
    """tokenizer.pad goes by its padding_side, pad_sequence always fills on the right."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        for row, shown in enumerate(true["attention_mask"].sum(1).tolist()):
            by = true["labels"].shape[1] - shown
            batch["labels"][row] = true["labels"][row].roll(by if made.side == "right" else -by)

    return to_batches(made, change)
