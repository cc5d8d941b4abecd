"""No token crosses the border, and the pieces together still say the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from distillab.data.border import BorderEncoder, Piece

REAL = ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "tok512", "tok105"]
# BPE without a pre-tokenizer: merges are local, so a boundary of the joint encoding is one of the parts too.
WITHOUT_PRE_TOKENIZER = ["tinyllama-1.1b", "mistral-7b-v0.1", "tok512"]


def joined(encoder, *texts):
    pieces = [Piece(text, ((0, len(text)),)) for text in texts]
    return encoder.encode(pieces)


def pairs(materials, file, prompt, answer, count):
    lines = (materials / "text" / file).read_text(encoding="utf-8").splitlines()[:count]
    return [(json.loads(line)[prompt] + "\n", json.loads(line)[answer]) for line in lines]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    ("file", "prompt", "answer"), [("gsm8k/train.jsonl", "question", "answer"), ("dolly/dev.jsonl", "prompt", "output")]
)
def test_real_rows_decode_to_their_joint_text(materials, real_tokenizer, name, file, prompt, answer):
    tokenizer = real_tokenizer(name)
    encoder = BorderEncoder(tokenizer)
    for question, reply in pairs(materials, file, prompt, answer, 60):
        asked, said = joined(encoder, question, reply)
        together = tokenizer(question + reply, add_special_tokens=False)["input_ids"]
        if name == "tok105" and tokenizer.unk_token_id == said[0]:
            continue  # runs of unknown characters are one <unk> together, and one on each side apart
        assert tokenizer.decode(asked + said) == tokenizer.decode(together)
        assert asked == tokenizer(question, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", WITHOUT_PRE_TOKENIZER)
def test_where_the_joint_encoding_has_a_boundary_at_the_border_it_is_ours(materials, real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    encoder = BorderEncoder(tokenizer)
    compared = 0
    for question, reply in pairs(materials, "gsm8k/train.jsonl", "question", "answer", 60):
        for cut in (len(question), len(question) // 2, len(question) + 3):
            text = question + reply
            joint = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            starts = [start for start, _ in joint["offset_mapping"]]
            ends = [end for _, end in joint["offset_mapping"]]
            if cut in starts and cut in ends:
                asked, said = joined(encoder, text[:cut], text[cut:])
                assert asked + said == joint["input_ids"]
                compared += 1
    assert compared > 60


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "tok512", "tok105"])
def test_no_dummy_space_begins_an_answer(real_tokenizer, name):
    tokenizer = real_tokenizer(name)
    _, said = joined(BorderEncoder(tokenizer), "What is it?\n", "Yes, it is")
    alone = tokenizer("Yes, it is", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(said)[0].startswith("▁")
    assert "▁it" in "".join(tokenizer.convert_ids_to_tokens(said))


texts = st.text(alphabet="ab eé  \n▁ß🙂.", max_size=12)
words = st.text(alphabet="ab eé  \nXß日🙂.,'", max_size=12)


@settings(max_examples=60, deadline=None)
@given(first=words, second=words, third=words)
@pytest.mark.parametrize("name", ["tinyllama-1.1b", "gpt2", "tok512"])
def test_any_cut_of_any_text_says_the_text(real_tokenizer, name, first, second, third):
    tokenizer = real_tokenizer(name)
    encoder = _encoder(tokenizer)
    parts = joined(encoder, first, second, third)
    together = tokenizer(first + second + third, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([i for part in parts for i in part]) == tokenizer.decode(together)
    # A piece never changes those before it: that is what makes a prompt a prompt.
    assert joined(encoder, first, second) == parts[:2]


@settings(max_examples=60, deadline=None)
@given(first=texts, second=texts)
@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1"])
def test_a_text_is_normalised_as_by_the_tokenizer(real_tokenizer, name, first, second):
    tokenizer = real_tokenizer(name)
    [after_token] = joined(_encoder(tokenizer), first)
    assert after_token == tokenizer(first, add_special_tokens=False)["input_ids"]
    pieces = [Piece(first + "</s>", ((0, len(first)),)), Piece(second, ((0, len(second)),))]
    together = tokenizer(first + "</s>" + second, add_special_tokens=False)["input_ids"]
    assert [i for part in _encoder(tokenizer).encode(pieces) for i in part] == together


def test_an_added_token_is_found_in_the_normalised_text_too(make):
    tokenizer = make["fast"](make["byte_level"](normalizer=normalizers.Replace(" ", "_")))
    tokenizer.add_tokens([AddedToken("a b", normalized=True)])
    for text in ("a b", "xa_by", "a  b"):
        [ids] = joined(BorderEncoder(tokenizer), text)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("a b") in joined(BorderEncoder(tokenizer), "xa_by")[0]


_ENCODERS = {}


def _encoder(tokenizer):
    if id(tokenizer) not in _ENCODERS:
        _ENCODERS[id(tokenizer)] = BorderEncoder(tokenizer)
    return _ENCODERS[id(tokenizer)]


def test_special_tokens_of_the_template_are_ids_and_those_of_the_data_are_text(real_tokenizer):
    tokenizer = real_tokenizer("tinyllama-1.1b")
    encoder = BorderEncoder(tokenizer)
    [[*template]] = encoder.encode([Piece("a</s>b")])
    [[*data]] = encoder.encode([Piece("a</s>b", ((0, 6),))])
    assert template == tokenizer("a</s>b", add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id in template
    assert tokenizer.eos_token_id not in data
    assert tokenizer.decode(data) == "a</s>b"


@pytest.mark.parametrize("cuts", [(3, 20), (17, 40), (28, 29), (30, 50)])
def test_chat_text_in_pieces_equals_the_tokenizer_wherever_it_has_the_border(real_tokenizer, cuts):
    tokenizer = real_tokenizer("tinyllama-1.1b")
    text = "<s>[INST] hello [/INST] yes </s><s>[INST] more? [/INST] no </s>"
    one, two = cuts
    pieces = [Piece(text[:one]), Piece(text[one:two]), Piece(text[two:])]
    ids = [i for part in BorderEncoder(tokenizer).encode(pieces) for i in part]
    joint = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    edges = {edge for span in joint["offset_mapping"] for edge in span}
    if one in edges and two in edges:
        assert ids == joint["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.decode(joint["input_ids"])


def test_added_prefix_space_of_byte_level_is_not_repeated(make):
    tokenizer = make["fast"](make["byte_level"](add_prefix_space=True))
    asked, said = joined(BorderEncoder(tokenizer), "Play", "ing plays")
    assert tokenizer.decode(asked + said) == " Playing plays"
    assert "".join(tokenizer.convert_ids_to_tokens(said)) == "ingĠplays"


@pytest.mark.parametrize(
    "splitter",
    [
        pre_tokenizers.Metaspace(prepend_scheme="always"),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]),
    ],
)
def test_unigram_continues_words_and_keeps_word_starts(make, splitter):
    tokenizer = make["fast"](make["unigram"](splitter))
    encoder = BorderEncoder(tokenizer)
    said = "".join(tokenizer.convert_ids_to_tokens(joined(encoder, "play", "ers play plays")[1]))
    assert said == "ers▁play▁plays"
    said = "".join(tokenizer.convert_ids_to_tokens(joined(encoder, "play", " the lazy")[1]))
    assert said == "▁the▁lazy"


def test_metaspace_first_puts_no_space_after_a_special_token(make):
    tokenizer = make["fast"](make["unigram"](pre_tokenizers.Metaspace(prepend_scheme="first")), eos_token="<|end|>")
    _, said = BorderEncoder(tokenizer).encode([Piece("play<|end|>"), Piece("play the")])
    joint = tokenizer("play<|end|>play the", add_special_tokens=False)["input_ids"]
    assert said == joint[-len(said) :]
    assert not tokenizer.convert_ids_to_tokens(said)[0].startswith("▁")


def test_a_normaliser_that_joins_over_the_border_is_kept_on_each_side(make):
    tokenizer = make["fast"](make["byte_level"](normalizer=normalizers.NFC()))
    asked, said = joined(BorderEncoder(tokenizer), "cafe", "\u0301 e\u0301")
    assert asked == tokenizer("cafe", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(said).endswith("\u0301 \u00e9")


def test_word_piece_has_no_way_to_begin_inside_a_word(make):
    tokenizer = make["fast"](make["word_piece"]())
    encoder = BorderEncoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(joined(encoder, "play", "ing wells")[1]) == ["ing", "well", "##s"]
    assert tokenizer.convert_ids_to_tokens(joined(encoder, "play", " playing")[1]) == ["play", "##ing"]


def test_a_tokenizer_written_in_python_is_refused():
    from distillab.errors import DataError

    with pytest.raises(DataError, match=r"tokenizer\.json"):
        BorderEncoder(object())
