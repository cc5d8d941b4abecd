"""Faults of batches: templates, tokenizers, number formats and rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from bench.doctor.grammar import Random, World
from bench.doctor.rows import IGNORED
from bench.doctor.rules_labels import of_answers, to_rows
from bench.doctor.rules_positions import RULES
from bench.doctor.trainers import draw_batches
from bench.doctor.world_batch import Batches, Row, examine_batches

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


@RULES.rule("template", "double-bos", fits=lambda made: made.has_bos and of_answers(made))
def answers_begin_with_a_begin_token(made: Batches, draw: Random) -> Batches:
    """tokenizer(prompt) + tokenizer(answer)."""
    return replace(made, answer_begins=True)


@RULES.rule("template", "bos-missing", fits=lambda made: made.has_bos)
def no_begin_token(made: Batches, draw: Random) -> Batches:
    """add_special_tokens=False."""
    return replace(made, begins=0)


@RULES.rule("template", "eos-missing", fits=of_answers)
def no_end_token(made: Batches, draw: Random) -> Batches:
    """Nobody appends it."""
    return replace(made, end="none")


@RULES.rule("template", "eos-missing", "markers-in-pieces", fits=lambda made: of_answers(made) and not made.chat)
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

    return to_rows(made, change)


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

    return to_rows(replace(made, turns=1), change)


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

    return to_rows(replace(made, vocabulary="right"), change)


@RULES.rule("data", "duplicated-rows")
def rows_drawn_with_replacement(made: Batches, draw: Random) -> Batches:
    """A sampler with replacement, from too few rows."""
    kept = draw.choice((3, 4))

    def change(rows: list[Row], _: PreTrainedTokenizerFast, inner: Random) -> None:
        few = rows[: len(rows) // kept]
        rows[:] = [few[inner.randrange(len(few))] for _ in rows]

    return to_rows(replace(made, count=32), change)


@RULES.rule(
    "data",
    "answers-truncated",
    fits=lambda made: of_answers(made) and made.turns == 1,
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

    return to_rows(replace(made, count=32), change)


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

    return to_rows(made, change)


BATCHES = World("batch", draw_batches, lambda made: made.trainer, examine_batches, RULES)
