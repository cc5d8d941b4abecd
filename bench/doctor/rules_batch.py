"""Faults of batches: masks, shifts, templates, tokenizers, number formats and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.rows import IGNORED
from bench.doctor.world_batch import Batch, Batches, Row, draw_batches, examine_batches

RULES: Mutations[Batches] = Mutations()
OfRows = Callable[[list[Row], PreTrainedTokenizerFast, Random], None]
OfBatch = Callable[[Batch, Batch, Random], None]


def _rows(made: Batches, change: OfRows, **changes: object) -> Batches:
    return replace(made, of_rows=(*made.of_rows, change), **changes)


def _each(made: Batches, change: Callable[[Row], None], share: float = 1.0) -> Batches:
    """A change to a share of the rows, at least one."""

    def of_rows(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
        for row in draw.sample(rows, max(1, round(share * len(rows)))):
            change(row)

    return _rows(made, of_rows)


def _batches(made: Batches, change: OfBatch, **changes: object) -> Batches:
    return replace(made, of_batches=(*made.of_batches, change), **changes)


def _answers(made: Batches) -> bool:
    return made.learns == "answers"


def _masked(made: Batches) -> bool:
    return made.padded and made.mask


def _score(row: Row, places: Sequence[int], *, yes: bool) -> None:
    for place in places:
        row.labels[place] = row.ids[place] if yes else IGNORED


# ---------------------------------------------------------------- mask


@RULES.rule("mask", "prompt-in-loss", fits=lambda made: _answers(made) and made.turns == 1)
def prompts_scored_in_some_rows(made: Batches, draw: Random) -> Batches:
    """One of several sources comes without a mask of its prompts."""
    share = draw.choice((0.3, 0.6, 1.0))
    return _each(replace(made, told=True), lambda row: _score(row, row.places("prompt"), yes=True), share)


@RULES.rule("mask", "prompt-in-loss", fits=lambda made: _answers(made) and made.turns > 1)
def later_questions_scored(made: Batches, draw: Random) -> Batches:
    """Everything behind the first answer is learned."""

    def change(row: Row) -> None:
        _score(row, [place for place in row.places("prompt") if place > row.starts()[0]], yes=True)

    return _each(replace(made, told=True), change)


@RULES.rule("mask", "mask-inverted", fits=_answers, beside=["prompt-in-loss"])
def scored_is_what_should_be_masked(made: Batches, draw: Random) -> Batches:
    """A mask that is 1 for the prompt is read as 1 for the answer."""

    def change(row: Row) -> None:
        _score(row, row.places("answer", "end"), yes=False)
        _score(row, row.places("prompt"), yes=True)

    return _each(replace(made, told=True), change)


@RULES.rule("mask", "answer-start-not-scored", fits=_answers)
def mask_is_too_long(made: Batches, draw: Random) -> Batches:
    """The prompt comes out some tokens longer where it is measured."""
    by = draw.choice((1, 1, 2, 3, 5))
    return _each(
        made,
        lambda row: _score(row, [at + i for at in row.starts() for i in range(by) if at + i < len(row.ids)], yes=False),
    )


@RULES.rule("mask", "prompt-end-scored", "answer-header-scored", fits=_answers)
def mask_is_too_short(made: Batches, draw: Random) -> Batches:
    """The prompt is measured without its BOS, or without what the template puts behind it."""
    by = draw.choice((1, 1, 2, 3))
    return _each(made, lambda row: _score(row, [at - i for at in row.starts() for i in range(1, by + 1)], yes=True))


@RULES.rule(
    "mask",
    "prompt-in-loss",
    "prompt-end-scored",
    "answer-start-not-scored",
    fits=lambda made: _answers(made) and made.turns == 1,
    beside=["all-masked-rows", "eos-not-scored"],
)
def lengths_of_other_prompts(made: Batches, draw: Random) -> Batches:
    """The lengths of the prompts were sorted, or shuffled, and the rows were not."""

    def change(rows: list[Row], _: PreTrainedTokenizerFast, inner: Random) -> None:
        lengths = [row.starts()[0] for row in rows]
        inner.shuffle(lengths)
        for row, length in zip(rows, lengths, strict=True):
            row.labels = [IGNORED] * min(length, len(row.ids)) + row.ids[length:]

    return _rows(replace(made, told=True), change)


@RULES.rule("mask", "eos-not-scored", fits=_answers)
def ends_masked(made: Batches, draw: Random) -> Batches:
    """Labels that equal the padding's or the frame's token are masked."""
    return _each(made, lambda row: _score(row, row.places("end"), yes=False), draw.choice((0.5, 1.0, 1.0)))


@RULES.rule(
    "mask", "answer-start-not-scored", "answers-one-token", fits=lambda made: _answers(made) and made.turns == 1
)
def ends_alone_scored(made: Batches, draw: Random) -> Batches:
    """!= where == was meant."""
    return _each(made, lambda row: _score(row, row.places("answer"), yes=False))


@RULES.rule("mask", "all-masked-rows", fits=lambda made: made.packing == "none")
def nothing_scored_in_some_rows(made: Batches, draw: Random) -> Batches:
    """The marker of the answer was not found in them."""
    share = draw.choice((0.2, 0.5, 1.0))
    return _each(made, lambda row: _score(row, range(len(row.ids)), yes=False), share)


@RULES.rule("mask", "padding-in-loss", fits=lambda made: made.padded)
def padding_scored(made: Batches, draw: Random) -> Batches:
    """labels = input_ids.clone(), and the prompt alone is masked."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        fill = true["attention_mask"] == 0
        batch["labels"][fill] = batch["input_ids"][fill]

    return _batches(made, change)


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
    return _batches(made, _shown)


@RULES.rule("mask", "attention-mask-inverted", fits=_masked)
def one_means_padding(made: Batches, draw: Random) -> Batches:
    """torch's key_padding_mask for a model of transformers."""
    return _batches(made, _other_way)


@RULES.rule("mask", "tokens-hidden", fits=lambda made: _masked(made) and _answers(made) and made.shifts == "model")
def attention_made_of_labels(made: Batches, draw: Random) -> Batches:
    """attention_mask = labels != -100."""
    return _batches(made, _of_labels)


@RULES.rule("mask", "tokens-hidden", fits=_masked)
def tokens_dropped_from_attention(made: Batches, draw: Random) -> Batches:
    """Dropout on the attention mask, "as augmentation"."""
    share = draw.choice((0.03, 0.1, 0.3))

    def change(batch: Batch, true: Batch, inner: Random) -> None:
        torch.manual_seed(inner.randrange(10**6))
        batch["attention_mask"] = true["attention_mask"] * (torch.rand(true["labels"].shape) > share).long()

    return _batches(made, change)


@RULES.rule("mask", "attention-mask-kind", fits=_masked)
def mask_made_to_be_added(made: Batches, draw: Random) -> Batches:
    """0 and the lowest number, in two dimensions."""
    return _batches(made, _added, form="tensors")


@RULES.rule("mask", "attention-mask-looks-ahead", fits=_masked)
def mask_of_an_encoder(made: Batches, draw: Random) -> Batches:
    """Four dimensions, and nothing in it is causal."""
    return _batches(made, _of_an_encoder, form="tensors")


# ---------------------------------------------------------------- shift


def _move(row: Row, by: int) -> None:
    fill = [IGNORED] * min(abs(by), len(row.ids))
    row.labels = [*row.labels[by:], *fill] if by > 0 else [*fill, *row.labels[:by]]


@RULES.rule("shift", "labels-shifted-twice", "labels-misaligned", fits=lambda made: made.shifts == "model")
def shifted_for_a_model_that_shifts(made: Batches, draw: Random) -> Batches:
    """All rows, or those of one source."""
    return _each(made, lambda row: _move(row, 1), draw.choice((0.5, 1.0, 1.0)))


@RULES.rule("shift", "labels-not-shifted", fits=lambda made: made.shifts == "batch")
def nobody_shifts(made: Batches, draw: Random) -> Batches:
    """The labels stand in place, and the loop does not move them."""
    return replace(made, moves=0)


@RULES.rule("shift", "labels-shifted-wrong-way")
def moved_the_wrong_way(made: Batches, draw: Random) -> Batches:
    """torch.roll(labels, 1)."""
    return replace(made, moves=-1) if made.shifts == "batch" else _each(made, lambda row: _move(row, -1))


@RULES.rule("shift", "labels-misaligned")
def labels_some_positions_away(made: Batches, draw: Random) -> Batches:
    """A prefix was put before the ids, or cut from them, after the labels were made."""
    by = draw.choice((-6, -4, -3, 3, 4, 5, 7))
    return replace(made, moves=1 + by) if made.shifts == "batch" else _each(made, lambda row: _move(row, by))


@RULES.rule("shift", "labels-of-other-rows", fits=lambda made: made.padded and made.size >= 4)
def labels_in_another_order(made: Batches, draw: Random) -> Batches:
    """The ids were shuffled, or sorted by length, and the labels were not."""
    by = draw.choice((1, 2, 3))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["labels"] = true["labels"].roll(by, 0)

    return _batches(made, change)


@RULES.rule(
    "shift",
    "answer-at-prompt-positions",
    fits=lambda made: made.padded and _answers(made) and made.turns == 1 and made.shifts == "model",
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

    return _rows(made, change)


@RULES.rule("shift", "labels-misaligned", "labels-not-inputs", fits=lambda made: made.padded)
def labels_padded_on_the_other_side(made: Batches, draw: Random) -> Batches:
    """tokenizer.pad goes by its padding_side, pad_sequence always fills on the right."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        for row, shown in enumerate(true["attention_mask"].sum(1).tolist()):
            by = true["labels"].shape[1] - shown
            batch["labels"][row] = true["labels"][row].roll(by if made.side == "right" else -by)

    return _batches(made, change)


def _absolute(made: Batches) -> bool:
    return made.tokenizer == "gpt2" and made.padded and made.mask


@RULES.rule("shift", "positions-wrong", fits=_absolute)
def positions_do_not_begin_at_zero(made: Batches, draw: Random) -> Batches:
    """cumsum without - 1, or OPT's offset of 2, for a model that learns a vector a position."""
    first = draw.choice((1, 2, 5))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = (true["attention_mask"].cumsum(1) - 1 + first) * true["attention_mask"]

    return _batches(replace(made, told=True), change)


@RULES.rule("shift", "positions-wrong", fits=_absolute)
def positions_run_on(made: Batches, draw: Random) -> Batches:
    """torch.arange(B * L).view(B, L)."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = torch.arange(true["labels"].numel()).view_as(true["labels"])

    return _batches(replace(made, told=True), change)


@RULES.rule("shift", "padding-side", "positions-wrong", fits=_absolute)
def padding_left_and_not_counted_out(made: Batches, draw: Random) -> Batches:
    """Left padding for GPT-2, without position ids, or with arange."""
    counted = draw.random() < 0.5

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch.pop("position_ids", None)
        if counted:
            batch["position_ids"] = torch.arange(true["labels"].shape[1]).expand_as(true["labels"]).clone()

    return _batches(replace(made, told=True, side="left"), change)


@RULES.rule("shift", "packed-without-boundaries", fits=lambda made: made.packing != "none")
def boundaries_lost(made: Batches, draw: Random) -> Batches:
    """Position ids and block mask are columns that the trainer removes."""

    def change(batch: Batch, true: Batch, _: Random) -> None:
        del batch["position_ids"]
        batch.pop("attention_mask", None)

    return _batches(made, change)


@RULES.rule("shift", "positions-wrong", fits=lambda made: made.packing == "positions")
def positions_begin_again_elsewhere(made: Batches, draw: Random) -> Batches:
    """The samples' lengths were taken before BOS was added, or before they were cut."""
    by = draw.choice((-3, -1, 1, 2, 5))

    def change(batch: Batch, true: Batch, _: Random) -> None:
        batch["position_ids"] = true["position_ids"].roll(by, 1)

    return _batches(made, change)


@RULES.rule(
    "shift",
    "sample-start-scored",
    fits=lambda made: made.packing != "none" and made.learns == "text" and made.has_bos,
)
def first_tokens_scored(made: Batches, draw: Random) -> Batches:
    """Each packed text's BOS is predicted from the text before it."""
    return _each(made, lambda row: _score(row, [0], yes=True))


# ---------------------------------------------------------------- template


@RULES.rule("template", "markers-in-pieces", fits=lambda made: made.chat)
def markers_that_are_no_tokens(made: Batches, draw: Random) -> Batches:
    """ChatML's template on a base tokenizer."""
    return replace(made, markers=False)


@RULES.rule(
    "template",
    "template-of-another-family",
    "markers-in-pieces",
    fits=lambda made: made.chat and made.source == "sums",
)
def rows_of_another_family(made: Batches, draw: Random) -> Batches:
    """All rows, or those of one source, were rendered for another model."""
    other = draw.choice(("inst", "alpaca", "gemma", "llama3"))
    return replace(made, written=other, written_share=draw.choice((0.5, 1.0)), system=False, turns=1)


@RULES.rule("template", "double-bos", fits=lambda made: made.has_bos)
def begin_token_of_template_and_tokenizer(made: Batches, draw: Random) -> Batches:
    """The template writes <s>, and the tokenizer adds its own."""
    return replace(made, begins=2)


@RULES.rule("template", "double-bos", fits=lambda made: made.has_bos and _answers(made))
def answers_begin_with_a_begin_token(made: Batches, draw: Random) -> Batches:
    """tokenizer(prompt) + tokenizer(answer)."""
    return replace(made, answer_begins=True)


@RULES.rule("template", "bos-missing", fits=lambda made: made.has_bos)
def no_begin_token(made: Batches, draw: Random) -> Batches:
    """add_special_tokens=False."""
    return replace(made, begins=0)


@RULES.rule("template", "eos-missing", fits=_answers)
def no_end_token(made: Batches, draw: Random) -> Batches:
    """Nobody appends it."""
    return replace(made, end="none")


@RULES.rule("template", "eos-missing", "markers-in-pieces", fits=lambda made: _answers(made) and not made.chat)
def end_token_of_another_family_as_text(made: Batches, draw: Random) -> Batches:
    """Its letters, in pieces."""
    texts = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>") if made.has_bos else ("</s>", "<|eot_id|>", "<end_of_turn>")
    return replace(made, end="text", end_text=draw.choice(texts))


# ---------------------------------------------------------------- tokenizer


@RULES.rule(
    "tokenizer",
    "ids-of-another-tokenizer",
    "ids-outside-vocabulary",
    fits=lambda made: not made.chat,
    beside=["unknown-tokens"],
)
def rows_of_another_tokenizer(made: Batches, draw: Random) -> Batches:
    """All rows, or those of one source, were tokenised for the teacher."""
    others = [name for name in ("tinyllama-1.1b", "mistral-7b-v0.1", "gpt2") if name != made.tokenizer]
    return replace(
        made, encoder=draw.choice(others), encoder_share=draw.choice((0.5, 1.0)), vocabulary="right", form="tensors"
    )


@RULES.rule("tokenizer", "ids-of-another-tokenizer", beside=["ids-outside-vocabulary", "unknown-tokens"])
def ids_moved(made: Batches, draw: Random) -> Batches:
    """Special tokens were put before the others, as fairseq does: every id of a text is off by a constant."""
    by = draw.choice((1, 3, 4, 100))

    def change(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
        special = set(tokenizer.all_special_ids)
        for row in rows:
            was = row.ids
            row.ids = [token if token in special else (token + by) % len(tokenizer) for token in was]
            row.labels = [label if label == IGNORED else new for label, new in zip(row.labels, row.ids, strict=True)]

    return _rows(made, change)


@RULES.rule("tokenizer", "ids-of-another-tokenizer", fits=lambda made: not made.chat and not made.has_bos)
def words_tokenised_one_by_one(made: Batches, draw: Random) -> Batches:
    """is_split_into_words: a byte-level tokenizer loses the spaces between words."""

    def change(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
        for row in rows:
            ids, labels, parts = [], [], []
            for part in dict.fromkeys(row.parts):
                places = row.places(part)
                own = [row.ids[place] for place in places]
                learned = row.labels[places[-1]] != IGNORED
                if part in ("prompt", "answer"):
                    words = tokenizer.decode(own).split()
                    own = [token for word in words for token in tokenizer(word, add_special_tokens=False).input_ids]
                ids += own
                labels += own if learned else [IGNORED] * len(own)
                parts += [part] * len(own)
            row.ids, row.labels, row.parts = ids, labels, parts

    return _rows(replace(made, turns=1), change)


@RULES.rule("tokenizer", "ids-outside-vocabulary", fits=lambda made: made.padded)
def padding_token_without_a_row(made: Batches, draw: Random) -> Batches:
    """Added to the tokenizer; the embeddings are not made longer."""
    return replace(
        made,
        pad="[PAD]",
        template="words" if made.chat else made.template,
        turns=1,
        system=False,
        vocabulary="without padding",
    )


@RULES.rule("tokenizer", "unknown-tokens", fits=lambda made: not made.chat and made.tokenizer == "tok512")
def letters_that_the_vocabulary_lacks(made: Batches, draw: Random) -> Batches:
    """A vocabulary of 105 characters for text in another script."""
    first = draw.choice((0x3B1, 0x430, 0x5D0))

    def written(text: str) -> str:
        return "".join(
            chr(first + ord(sign.lower()) - 97) if sign.isascii() and sign.isalpha() else sign for sign in text
        )

    return replace(made, tokenizer="tok105", pad="</s>", words=written)


# ---------------------------------------------------------------- precision and data


@RULES.rule(
    "precision",
    "ids-outside-vocabulary",
    "ids-of-another-tokenizer",
    fits=lambda made: made.tokenizer != "tok512",
    beside=["labels-not-inputs", "unknown-tokens", "eos-missing"],
)
def ids_stored_in_too_few_bits(made: Batches, draw: Random) -> Batches:
    """numpy.int16 for 50,257 ids, or uint8 "to save room"."""
    kind = np.uint8 if made.has_bos else draw.choice((np.uint8, np.int16))

    def change(rows: list[Row], _: PreTrainedTokenizerFast, __: Random) -> None:
        for row in rows:
            row.ids = np.array(row.ids).astype(kind).tolist()
            row.labels = [label if label == IGNORED else new for label, new in zip(row.labels, row.ids, strict=True)]

    return _rows(made, change, vocabulary="right")


@RULES.rule("data", "duplicated-rows")
def rows_drawn_with_replacement(made: Batches, draw: Random) -> Batches:
    """A sampler with replacement, from too few rows."""
    kept = draw.choice((3, 4))

    def change(rows: list[Row], _: PreTrainedTokenizerFast, inner: Random) -> None:
        few = rows[: len(rows) // kept]
        rows[:] = [few[inner.randrange(len(few))] for _ in rows]

    return _rows(replace(made, count=32), change)


@RULES.rule(
    "data",
    "answers-truncated",
    fits=lambda made: _answers(made) and made.turns == 1,
    beside=["all-masked-rows", "eos-missing"],
)
def rows_cut_at_a_length(made: Batches, draw: Random) -> Batches:
    """The longer ones lose their end."""
    part, ended = draw.choice((0.3, 0.5, 0.7)), draw.random() < 0.3

    def change(rows: list[Row], _: PreTrainedTokenizerFast, __: Random) -> None:
        length = sorted(len(row.ids) for row in rows)[round(part * len(rows))]
        for row in rows:
            if len(row.ids) > length:
                end = (row.ids[-1], row.parts[-1], row.labels[-1])
                row.ids, row.parts, row.labels = row.ids[:length], row.parts[:length], row.labels[:length]
                if ended:
                    row.ids[-1], row.parts[-1], row.labels[-1] = end

    return _rows(replace(made, count=32), change)


@RULES.rule("data", "labels-not-inputs")
def noise_in_the_ids(made: Batches, draw: Random) -> Batches:
    """A share of the ids is replaced "as augmentation"; the labels keep the true ones."""
    share = draw.choice((0.05, 0.15, 0.3))

    def change(rows: list[Row], tokenizer: PreTrainedTokenizerFast, inner: Random) -> None:
        for row in rows:
            row.ids = [
                inner.randrange(300, 500) if part in ("prompt", "answer") and inner.random() < share else token
                for token, part in zip(row.ids, row.parts, strict=True)
            ]

    return _rows(made, change)


BATCHES = World("batch", draw_batches, lambda made: made.trainer, examine_batches, RULES)
