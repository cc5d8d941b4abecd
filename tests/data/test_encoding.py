"""The contract Causal sequence: [prompt, answer, eos], what is learned, what is cut, dropped and counted."""

from __future__ import annotations

import numpy as np
import pytest

from distillab.config.data import SourceConfig
from distillab.data.encoding import Dropped, Encoder, begin_ids
from distillab.data.examples import Message, conversation_example, pair_example, text_example
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.data.templates import resolve_template
from distillab.errors import DataError

REAL = ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512", "tok105"]


def pair(prompt="What is it?", answer="It is 4."):
    return pair_example("k", "f:1", instruction=prompt, context="", answer=answer)


def encoder(tokenizer, name="plain", kind="pair", max_tokens=512):
    return Encoder(tokenizer, resolve_template(name, tokenizer, kind), max_tokens)


@pytest.mark.parametrize("name", REAL)
def test_prompt_answer_eos(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    row = encoder(tokenizer).encode(pair())
    ids, border = row.input_ids.tolist(), row.prompt_length
    assert row.input_ids.dtype == np.int32
    # The prompt is what the tokenizer makes of it alone, with its own begin token.
    assert ids[:border] == tokenizer("What is it?\n")["input_ids"]
    assert tokenizer.decode(ids[border:-1]) == "It is 4."
    assert ids[-1] == tokenizer.eos_token_id
    assert row.answer_mask.tolist() == [False] * border + [True] * (len(ids) - border)
    assert not row.truncated


@pytest.mark.parametrize("name", REAL)
def test_a_begin_token_stands_there_exactly_when_the_tokenizer_adds_one(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    assert begin_ids(tokenizer) == ([] if name == "gpt2" else [tokenizer.bos_token_id])


def test_a_begin_token_that_the_template_writes_is_not_doubled(real_tokenizer):
    tokenizer = real_tokenizer("tinyllama-1.1b")
    ids = encoder(tokenizer, "<s>{prompt}\n").encode(pair()).input_ids.tolist()
    assert ids == encoder(tokenizer).encode(pair()).input_ids.tolist()


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "gpt2", "tok512"])
def test_generation_starts_from_exactly_the_prompt_of_training(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    for template, kind, example in [
        ("plain", "pair", pair()),
        ("alpaca", "pair", pair()),
        ("turns", "messages", talk()),
        ("plain", "text", text_example("k", "f", text="Once upon a time there was a cat.", prompt_share=0.4)),
    ]:
        made = encoder(tokenizer, template, kind)
        row = made.encode(example)
        assert made.encode_prompt(example) == row.input_ids[: row.prompt_length].tolist()
        other = made.encode(example.with_answer(" Something else."))
        assert other.input_ids[: row.prompt_length].tolist() == made.encode_prompt(example)


def talk():
    turns = (("user", "u1"), ("assistant", "one"), ("user", "u2"), ("assistant", "two"))
    return conversation_example("k", "f:1", tuple(Message(role, text) for role, text in turns))


def test_every_assistant_turn_is_learned_and_closed(real_tokenizer):
    tokenizer = real_tokenizer("tinyllama-1.1b")
    row = encoder(tokenizer, "turns", "messages").encode(talk())
    learned = [i for i, marked in zip(row.input_ids.tolist(), row.answer_mask, strict=True) if marked]
    assert learned.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(learned) == "one</s>two</s>"
    assert tokenizer.decode(row.input_ids[row.prompt_length :]) == "two</s>"


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "gpt2"])
def test_plain_text_is_learned_but_for_its_first_token(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    example = text_example("k", "f", text="Once upon a time there was a cat.", prompt_share=0.4)
    row = encoder(tokenizer, "plain", "text").encode(example)
    assert row.answer_mask.tolist() == [False] + [True] * (len(row) - 1)
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert row.input_ids[:-1].tolist() == tokenizer(example.prompt + example.answer)["input_ids"]


def test_an_answer_is_cut_at_the_limit_and_loses_its_eos(real_tokenizer):
    tokenizer = real_tokenizer("gpt2")
    whole = encoder(tokenizer).encode(pair())
    cut = encoder(tokenizer, max_tokens=len(whole) - 1).encode(pair())
    assert cut.truncated
    assert cut.input_ids.tolist() == whole.input_ids[:-1].tolist()
    assert tokenizer.eos_token_id not in cut.input_ids
    assert encoder(tokenizer, max_tokens=len(whole)).encode(pair()).truncated is False


@pytest.mark.parametrize("room", [-2, -1, 0])
def test_a_row_whose_answer_is_cut_away_is_dropped(real_tokenizer, room):
    tokenizer = real_tokenizer("gpt2")
    prompt = encoder(tokenizer).encode(pair()).prompt_length
    assert encoder(tokenizer, max_tokens=prompt + room).encode(pair()) == Dropped("k", "no_room")
    kept = encoder(tokenizer, max_tokens=prompt + 1).encode(pair())
    assert kept.answer_mask.sum() == 1


def test_a_conversation_cut_in_its_last_prompt_keeps_the_first_answer(real_tokenizer):
    made = encoder(real_tokenizer("gpt2"), "turns", "messages")
    whole = made.encode(talk())
    cut = encoder(real_tokenizer("gpt2"), "turns", "messages", max_tokens=whole.prompt_length).encode(talk())
    assert cut.truncated
    assert 0 < cut.prompt_length < whole.prompt_length
    assert cut.answer_mask[cut.prompt_length]


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_empty_answer_is_dropped(real_tokenizer, answer):
    assert encoder(real_tokenizer("gpt2")).encode(pair(answer=answer)) == Dropped("k", "empty_answer")
    empty = talk().with_answer(answer)
    assert encoder(real_tokenizer("gpt2"), "turns", "messages").encode(empty) == Dropped("k", "empty_answer")


def test_all_is_counted(real_tokenizer):
    tokenizer = real_tokenizer("gpt2")
    examples = [
        pair(),
        pair(answer=""),
        pair(prompt="long " * 100),
        pair(answer="long " * 100),
        pair(answer="spells <|endoftext|>."),
    ]
    split = encoder(tokenizer, max_tokens=40).encode_all(examples, source="five")
    counts = split.counts
    assert (counts.source, counts.rows, counts.kept) == ("five", 5, 3)
    assert (counts.dropped_empty_answer, counts.dropped_no_room) == (1, 1)
    assert (counts.truncated, counts.special_in_text) == (1, 1)
    assert counts.tokens == sum(len(row.input_ids) for row in split.rows)
    assert counts.supervised_tokens == sum(sum(row.answer_mask.tolist()) for row in split.rows)
    assert split.examples == [examples[0], examples[3], examples[4]]
    # The spelled EOS is text; the only EOS id is the one that ends the answer.
    assert split.rows[2].input_ids.tolist().count(tokenizer.eos_token_id) == 1


def test_nothing_left_is_an_error_with_the_counts(real_tokenizer):
    made = encoder(real_tokenizer("gpt2"), max_tokens=20)
    with pytest.raises(DataError, match=r"No supervised token(.|\n)*3 rows, 3 dropped for an empty answer"):
        made.encode_all([pair(answer="")] * 3, source="x")
    with pytest.raises(
        DataError, match=r"2 dropped because the prompt alone fills max_tokens = 20(.|\n)*raise max_tokens"
    ):
        made.encode_all([pair(prompt="long " * 50)] * 2, source="x")
    with pytest.raises(DataError, match="no rows"):
        made.encode_all([], source="x")


def test_a_tokenizer_without_eos_is_refused(make):
    tokenizer = make["fast"](make["byte_level"]())
    with pytest.raises(DataError, match="no EOS"):
        encoder(tokenizer)


def test_padding_id_is_eos_where_there_is_none(make):
    assert encoder(make["fast"](make["byte_level"](), eos_token="<|end|>")).pad_id == 0
    padded = make["fast"](make["byte_level"](), eos_token="<|end|>", pad_token="<|im_end|>")
    assert encoder(padded).pad_id == 2


def test_a_suffix_that_the_tokenizer_adds_is_not_doubled(make):
    from tokenizers.processors import TemplateProcessing

    backend = make["byte_level"]()
    backend.post_processor = TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer = make["fast"](backend, eos_token="<|end|>")
    assert tokenizer("a")["input_ids"][-1] == 0
    row = encoder(tokenizer).encode(pair())
    assert row.input_ids.tolist().count(0) == 1
    assert row.input_ids[-1] == 0


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1"])
@pytest.mark.parametrize("file", ["gsm8k/train.jsonl", "dolly/dev.jsonl"])
def test_real_files_with_real_tokenizers(materials, real_tokenizer, name, file):
    rows = read_rows(SourceConfig(path=str(materials / "text" / file), limit=300))
    examples = to_examples(rows, columns=None, prompt_share=0.25)
    split = encoder(real_tokenizer(name), "auto").encode_all(examples, source=file)
    assert split.counts.rows == 300
    assert split.counts.kept + split.counts.dropped_no_room + split.counts.dropped_empty_answer == 300
    assert split.counts.kept > 290
    for row, example in zip(split.rows, split.examples, strict=True):
        if not row.truncated:
            answer = real_tokenizer(name).decode(row.input_ids[row.answer_mask][:-1])
            assert answer == example.answer
