"""Faults of batches: templates, tokenizers, number formats and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from bench.doctor.grammar import Random, World
from bench.doctor.rows import IGNORED
from bench.doctor.rules_labels import of_answers, one_turn, padded, to_rows
from bench.doctor.rules_positions import RULES
from bench.doctor.trainers import draw_batches
from bench.doctor.world_batch import Batches, Row, examine_batches

add = RULES.add
OfRows = Callable[[list[Row], PreTrainedTokenizerFast, Random], None]
_OTHERS = ("tinyllama-1.1b", "mistral-7b-v0.1", "gpt2")
# of families that the tokenizer does not have, by whether rows begin with a BOS
_ENDS = {True: ("<|endoftext|>", "<|im_end|>", "<|eot_id|>"), False: ("</s>", "<|eot_id|>", "<end_of_turn>")}


def _chat(made: Batches) -> bool:
    return made.chat


def _no_chat(made: Batches) -> bool:
    return not made.chat


def _bos(made: Batches) -> bool:
    return made.has_bos


def _each_id(row: Row, ids: list[int]) -> None:
    """Other ids for a row, in its labels too."""
    row.ids = ids
    row.labels = [label if label == IGNORED else new for label, new in zip(row.labels, ids, strict=True)]


def _ids_moved(by: int) -> OfRows:
    def change(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
        special = set(tokenizer.all_special_ids)
        for row in rows:
            _each_id(row, [token if token in special else (token + by) % len(tokenizer) for token in row.ids])

    return change


def _words_alone(rows: list[Row], tokenizer: PreTrainedTokenizerFast, _: Random) -> None:
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


def _in_letters_from(first: int) -> Callable[[str], str]:
    def letter(sign: str) -> str:
        return chr(first + ord(sign.lower()) - 97) if sign.isascii() and sign.isalpha() else sign

    return lambda text: "".join(map(letter, text))


def _stored(kind: type[np.integer[Any]]) -> OfRows:
    def change(rows: list[Row], _: PreTrainedTokenizerFast, __: Random) -> None:
        for row in rows:
            _each_id(row, np.array(row.ids).astype(kind).tolist())

    return change


def _drawn_from_few(kept: int) -> OfRows:
    def change(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
        few = rows[: len(rows) // kept]
        rows[:] = [few[draw.randrange(len(few))] for _ in rows]

    return change


def _cut(part: float, ended: bool) -> OfRows:
    def change(rows: list[Row], _: PreTrainedTokenizerFast, __: Random) -> None:
        length = sorted(len(row.ids) for row in rows)[round(part * len(rows))]
        for row in rows:
            if len(row.ids) > length:
                end = (row.ids[-1], row.parts[-1], row.labels[-1])
                row.ids, row.parts, row.labels = row.ids[:length], row.parts[:length], row.labels[:length]
                if ended:
                    row.ids[-1], row.parts[-1], row.labels[-1] = end

    return change


def _noisy(share: float) -> OfRows:
    def change(rows: list[Row], _: PreTrainedTokenizerFast, draw: Random) -> None:
        for row in rows:
            row.ids = [
                draw.randrange(300, 500) if part in ("prompt", "answer") and draw.random() < share else token
                for token, part in zip(row.ids, row.parts, strict=True)
            ]

    return change


# fmt: off

# ---------------------------------------------------------------- template

# ChatML's template on a base tokenizer.
add("template", "markers-that-are-no-tokens", "markers-in-pieces",
    lambda made, draw: replace(made, markers=False), _chat)
# All rows, or those of one source, were rendered for another model.
add("template", "rows-of-another-family", "template-of-another-family markers-in-pieces",
    lambda made, draw: replace(made, written=draw.choice(("inst", "alpaca", "gemma", "llama3")),
                               written_share=draw.choice((0.5, 1.0)), system=False, turns=1),
    lambda made: made.chat and made.source == "sums")
# The template writes <s>, and the tokenizer adds its own.
add("template", "begin-token-of-template-and-tokenizer", "double-bos",
    lambda made, draw: replace(made, begins=2), _bos)
# tokenizer(prompt) + tokenizer(answer).
add("template", "answers-begin-with-a-begin-token", "double-bos",
    lambda made, draw: replace(made, answer_begins=True), lambda made: made.has_bos and of_answers(made))
# add_special_tokens=False.
add("template", "no-begin-token", "bos-missing", lambda made, draw: replace(made, begins=0), _bos)
# Nobody appends it.
add("template", "no-end-token", "eos-missing", lambda made, draw: replace(made, end="none"), of_answers)
# Its letters, in pieces.
add("template", "end-token-of-another-family-as-text", "eos-missing markers-in-pieces",
    lambda made, draw: replace(made, end="text", end_text=draw.choice(_ENDS[made.has_bos])),
    lambda made: of_answers(made) and not made.chat)

# ---------------------------------------------------------------- tokenizer

# All rows, or those of one source, were tokenised for the teacher.
add("tokenizer", "rows-of-another-tokenizer", "ids-of-another-tokenizer ids-outside-vocabulary",
    lambda made, draw: replace(made, encoder=draw.choice([name for name in _OTHERS if name != made.tokenizer]),
                               encoder_share=draw.choice((0.5, 1.0)), vocabulary="right", form="tensors"),
    _no_chat, beside="unknown-tokens")
# Special tokens were put before the others, as fairseq does: every id of a text is off by a constant.
add("tokenizer", "ids-moved", "ids-of-another-tokenizer",
    lambda made, draw: to_rows(made, _ids_moved(draw.choice((1, 3, 4, 100)))),
    beside="ids-outside-vocabulary unknown-tokens")
# is_split_into_words: a byte-level tokenizer loses the spaces between words.
add("tokenizer", "words-tokenised-one-by-one", "ids-of-another-tokenizer",
    lambda made, draw: to_rows(replace(made, turns=1), _words_alone),
    lambda made: not made.chat and not made.has_bos)
# Added to the tokenizer; the embeddings are not made longer.
add("tokenizer", "padding-token-without-a-row", "ids-outside-vocabulary",
    lambda made, draw: replace(made, pad="[PAD]", template="words" if made.chat else made.template, turns=1,
                               system=False, vocabulary="without padding"), padded)
# A vocabulary of 105 characters for text in another script.
add("tokenizer", "letters-that-the-vocabulary-lacks", "unknown-tokens",
    lambda made, draw: replace(made, tokenizer="tok105", pad="</s>",
                               words=_in_letters_from(draw.choice((0x3B1, 0x430, 0x5D0)))),
    lambda made: not made.chat and made.tokenizer == "tok512")

# ---------------------------------------------------------------- precision and data

# numpy.int16 for 50,257 ids, or uint8 "to save room".
add("precision", "ids-stored-in-too-few-bits", "ids-outside-vocabulary ids-of-another-tokenizer",
    lambda made, draw: to_rows(replace(made, vocabulary="right"),
                               _stored(np.uint8 if made.has_bos else draw.choice((np.uint8, np.int16)))),
    lambda made: made.tokenizer != "tok512", beside="labels-not-inputs unknown-tokens eos-missing")
# A sampler with replacement, from too few rows.
add("data", "rows-drawn-with-replacement", "duplicated-rows",
    lambda made, draw: to_rows(replace(made, count=32), _drawn_from_few(draw.choice((3, 4)))))
# The longer ones lose their end.
add("data", "rows-cut-at-a-length", "answers-truncated",
    lambda made, draw: to_rows(replace(made, count=32), _cut(draw.choice((0.3, 0.5, 0.7)), draw.random() < 0.3)),
    one_turn, beside="all-masked-rows eos-missing")
# A share of the ids is replaced "as augmentation"; the labels keep the true ones.
add("data", "noise-in-the-ids", "labels-not-inputs",
    lambda made, draw: to_rows(made, _noisy(draw.choice((0.05, 0.15, 0.3)))))
# fmt: on

BATCHES = World("batch", draw_batches, lambda made: made.trainer, examine_batches, RULES)
