"""Token id -> bytes: the bytes of an encoding are the bytes of the text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from distillab.pairing.loading import LoadedTokenizer
from distillab.pairing.token_bytes import (
    TokenMeaning,
    byte_spans,
    family,
    means_the_same,
    role_ids,
    token_byte_lengths,
    token_meanings,
)

Load = Callable[[str], LoadedTokenizer]

PIECES = [
    "The quick",
    " ",
    "  ",
    "\n",
    "\t",
    "def f(x):\n    return x",
    "狐狸",
    "日本",
    "😀",
    "👩\u200d👩\u200d👧",
    "é",
]
PIECES += ["e\u0301", "\x00", "12345", "3.14", "\u00a0", "ﬁ", "don't", "====", "\r\n", "<0x0A>", "##s", "Ġ", "Ċ", "▁"]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def _prepended(text: str) -> str:
    return (" " + text if text else "").replace("▁", " ")


def _stories(text: str) -> str:
    """tok512 and tok105: spaces at the ends go, runs of spaces become one, one space in front."""
    return _prepended(re.sub(r" {2,}", " ", text.strip(" ")))


NORMALISED: dict[str, Callable[[str], str]] = {
    "tinyllama-1.1b": _prepended,
    "mistral-7b-v0.1": _prepended,
    "gpt2": lambda text: text,
    "tok512": _stories,
}


@pytest.mark.parametrize("name", NORMALISED)
def test_bytes_of_an_encoding_are_the_normalised_text(real: Load, name: str) -> None:
    tokenizer = real(name).tokenizer
    meanings = token_meanings(tokenizer)

    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        if any(special in text for special in tokenizer.all_special_tokens):
            return
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(meanings[i].data for i in ids) == NORMALISED[name](text).encode()

    check()


def test_characters_without_byte_fallback(real: Load) -> None:
    tokenizer = real("tok105").tokenizer
    meanings = token_meanings(tokenizer)
    known = "".join(m.data.decode() for m in meanings if m.kind == "text")
    assert all(m.kind != "byte" for m in meanings)

    @settings(max_examples=100, deadline=None)
    @given(st.text(alphabet=known, max_size=40))
    def check(text: str) -> None:
        if any(special in text for special in tokenizer.all_special_tokens):
            return
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(meanings[i].data for i in ids) == _stories(text).encode()

    check()
    assert 0 in tokenizer("a\nb")["input_ids"]


def test_metaspace_as_auto_tokenizer_builds_it(materials) -> None:
    """The same bytes where the space stands in a pre-tokenizer: a text that begins with a space gets no other."""
    tokenizer = AutoTokenizer.from_pretrained(str(materials / "tokenizers" / "tinyllama-1.1b"))
    assert '"Metaspace"' in str(tokenizer.backend_tokenizer.pre_tokenizer.__getstate__())[:40]
    meanings = token_meanings(tokenizer)
    for text in ("The quick 狐狸 😀\n\tx", " leading", "a  b"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(meanings[i].data for i in ids) == (" " + text.removeprefix(" ")).encode()


def test_every_byte_can_be_said(real: Load) -> None:
    for name in ("tinyllama-1.1b", "mistral-7b-v0.1", "tok512"):
        assert sorted(m.data[0] for m in token_meanings(real(name).tokenizer) if m.kind == "byte") == list(range(256))
    gpt2 = {m.data for m in token_meanings(real("gpt2").tokenizer) if m.kind == "text"}
    assert all(bytes([byte]) in gpt2 for byte in range(256))


def test_unigram(unigram: Tokenizer, wrap) -> None:
    tokenizer = wrap(unigram).tokenizer
    meanings = token_meanings(tokenizer)
    ids = tokenizer("the foxes", add_special_tokens=False)["input_ids"]
    assert [meanings[i].data for i in ids] == [b" the", b" fox", b"e", b"s"]
    assert meanings[0].kind == "special"
    assert family(tokenizer) == "Unigram"


def test_unigram_with_byte_fallback(wrap) -> None:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("a", -1.0), *((f"<0x{b:02X}>", -9.0) for b in range(256))]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer = wrap(backend).tokenizer
    meanings = token_meanings(tokenizer)
    assert [meanings[i] for i in tokenizer("aé")["input_ids"]] == [
        TokenMeaning("text", b"a"),
        TokenMeaning("byte", b"\xc3"),
        TokenMeaning("byte", b"\xa9"),
    ]
    assert family(tokenizer) == "Unigram with byte fallback"


def test_wordpiece_word_starts_get_a_space(wordpiece: Tokenizer, wrap) -> None:
    tokenizer = wrap(wordpiece, eos="[SEP]", bos="[CLS]", unk="[UNK]").tokenizer
    meanings = token_meanings(tokenizer)
    ids = tokenizer("The foxes jumped.", add_special_tokens=False)["input_ids"]
    assert [meanings[i].data for i in ids] == [b" the", b" fox", b"es", b" jump", b"ed", b" ."]
    assert family(tokenizer) == "WordPiece"


def test_byte_pieces_are_literal_without_byte_fallback(wrap) -> None:
    backend = Tokenizer(models.BPE(vocab={"<0x0A>": 0, "a": 1, "ab": 2, "b": 3}, merges=[("a", "b")]))
    assert token_meanings(wrap(backend, None, None, None, None).tokenizer)[0] == TokenMeaning("text", b"<0x0A>")


def test_end_of_word_suffix(wrap) -> None:
    vocab = {"a": 0, "b</w>": 1, "ab</w>": 2, "b": 3}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b</w>")], end_of_word_suffix="</w>"))
    meanings = token_meanings(wrap(backend, None, None, None, None).tokenizer)
    assert [m.data for m in meanings] == [b"a", b"b ", b"ab ", b"b"]


def test_added_tokens_and_unused_ids(toy, wrap, merges) -> None:
    backend = toy(merges)
    backend.add_tokens([AddedToken("Ġ▁x", normalized=False), AddedToken("the", normalized=False)])
    before = backend.get_vocab_size()
    meanings = token_meanings(wrap(backend).tokenizer)
    assert meanings[before - 1] == TokenMeaning("text", "Ġ▁x".encode())
    assert meanings[backend.token_to_id("the")] == TokenMeaning("text", b"the")
    gap = Tokenizer(models.BPE(vocab={"a": 0, "b": 3}, merges=[]))
    assert [m.kind for m in token_meanings(wrap(gap, None, None, None, None).tokenizer)] == [
        "text",
        "unused",
        "unused",
        "text",
    ]


def test_space_mark_is_only_a_space_where_the_tokenizer_says_so(wrap) -> None:
    vocab = {"▁a": 0, "Ġ": 1, "a": 2, "▁": 3}
    plain = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")]))
    assert token_meanings(wrap(plain, None, None, None, None).tokenizer)[0].data == "▁a".encode()
    plain.decoder = decoders.Metaspace()
    assert token_meanings(wrap(plain, None, None, None, None).tokenizer)[0].data == b" a"
    plain.decoder, plain.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel()
    assert [m.data for m in token_meanings(wrap(plain, None, None, None, None).tokenizer)][1:3] == [b" ", b"a"]


def test_families(real: Load) -> None:
    assert family(real("tinyllama-1.1b").tokenizer) == "SentencePiece BPE with byte fallback"
    assert family(real("gpt2").tokenizer) == "byte-level BPE"
    assert family(real("tok105").tokenizer) == "characters"


def test_spans_against_a_naive_loop(real: Load) -> None:
    tokenizer = real("tinyllama-1.1b").tokenizer
    meanings = token_meanings(tokenizer)
    ids = tokenizer("The 狐狸 </s> jumps\n")["input_ids"]
    assert ids[0] == 1
    assert 2 in ids
    position, expected = 0, []
    for i in ids:
        length = 0 if meanings[i].kind == "special" else len(meanings[i].data)
        expected.append([position, position + length])
        position += length
    assert byte_spans(ids, meanings).tolist() == expected
    assert expected[0] == [0, 0]
    lengths = token_byte_lengths(meanings)
    assert lengths.shape == (32_000,)
    assert [int(lengths[i]) for i in ids] == [b - a for a, b in expected]
    assert byte_spans([], meanings).shape == (0, 2)


def test_roles(real: Load) -> None:
    assert role_ids(real("tinyllama-1.1b").tokenizer) == {"bos": 1, "eos": 2, "unk": 0}
    assert token_meanings(real("gpt2").tokenizer)[50256].roles == {"bos", "eos", "unk"}


def test_when_two_meanings_are_the_same() -> None:
    eos, other_eos = (TokenMeaning("special", name, frozenset({"eos"})) for name in (b"</s>", b"<eos>"))
    pad = TokenMeaning("special", b"<pad>", frozenset({"pad"}))
    assert means_the_same(eos, other_eos)
    assert not means_the_same(eos, pad)
    assert not means_the_same(TokenMeaning("special", b"<a>"), TokenMeaning("special", b"<b>"))
    assert means_the_same(TokenMeaning("special", b"<tool>"), TokenMeaning("text", b"<tool>"))
    assert not means_the_same(TokenMeaning("byte", b"a"), TokenMeaning("text", b"a"))
    assert not means_the_same(TokenMeaning("unused", b""), TokenMeaning("text", b"a"))
