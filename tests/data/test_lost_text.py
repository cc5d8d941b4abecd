"""Characters for which a tokenizer has no token are counted."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillab.data.encoding import Encoder
from distillab.data.examples import pair_example
from distillab.data.lost_text import LostText
from distillab.data.templates import resolve_template


def without_bytes(**unknown):
    letters = {letter: number for number, letter in enumerate(["<e>", "<u>", *"abcdefgh \n"])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(letters, [], **unknown)), eos_token="<e>")


@pytest.mark.parametrize("unknown", [{}, {"unk_token": "<u>"}, {"unk_token": "<u>", "fuse_unk": True}])
def test_dropped_and_unknown_characters_are_counted(unknown):
    tokenizer = without_bytes(**unknown)
    if unknown:
        tokenizer.unk_token = "<u>"
    assert LostText(tokenizer).of_rows([["abc é日 b🙂"]]) == [3]
    assert LostText(tokenizer).of_rows([["日cdefgh"]]) == [1]
    assert LostText(tokenizer).of_rows([["cde\U0001f642fgh\u65e5"]]) == [2]
    encoder = Encoder(tokenizer, resolve_template("plain", tokenizer, "pair"), 64)
    rows = [
        pair_example("k", "f:1", instruction="ab", context="", answer="caf"),
        pair_example("l", "f:2", instruction="ab", context="", answer="日é f"),
        pair_example("m", "f:3", instruction="é", context="", answer="f"),
    ]
    counts = encoder.encode_all(rows, source="rows").counts
    assert (counts.rows_with_lost_text, counts.characters_lost, counts.prompts) == (2, 3, 2)


@pytest.mark.parametrize("text", ["日x", "日", "x日", "日 x"])
def test_the_first_character_is_not_hidden_by_the_space_before_a_text(real_tokenizer, text):
    assert LostText(real_tokenizer("tok105")).of_rows([[text]]) == [1]


def test_a_word_that_is_unknown_is_lost_whole(make):
    tokenizer = make["fast"](make["word_piece"](), unk_token="[UNK]")
    assert LostText(tokenizer).of_rows([["playing zebra ings"]]) == [len("zebra")]


@pytest.mark.parametrize("name", ["gpt2", "tinyllama-1.1b", "mistral-7b-v0.1", "tok512"])
def test_a_vocabulary_with_every_byte_loses_nothing(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    assert LostText(tokenizer).of_rows([["naïve 日本 🙂 \x07"]]) == [0]


def test_a_byte_level_vocabulary_without_all_bytes_loses_some():
    # "Ã" is the first byte of é: a character of which one byte has a token is lost all the same
    alphabet = ["Ã", *(letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter.isascii())]
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert LostText(PreTrainedTokenizerFast(tokenizer_object=backend)).of_rows([["ab é 日"]]) == [2]
