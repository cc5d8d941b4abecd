"""Real tokenizers from the materials, and small ones of the other kinds, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LoadTokenizer = Callable[[str], PreTrainedTokenizerFast]

_TEXT = [
    "The quick brown fox jumps over the lazy dog. Playing players play plays, said Anna.",
    "What is 2 + 2?\nIt is 4.\n\nUser: naïve café 日本 🙂 system assistant a b c d e",
] * 4

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def real_tokenizer(materials: Path) -> LoadTokenizer:
    """Loads a tokenizer of the materials by its folder name."""
    loaded: dict[str, PreTrainedTokenizerFast] = {}

    def load(name: str) -> PreTrainedTokenizerFast:
        if name not in loaded:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(materials / "tokenizers" / name)
            if tokenizer.eos_token is None:
                tokenizer.eos_token = "<|endoftext|>"
            tokenizer.model_max_length = 10**9
            loaded[name] = tokenizer
        return loaded[name]

    return load


def byte_level(*, add_prefix_space: bool = False, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def unigram(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<|end|>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    vocab = {token: n for n, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "play", "##ing", "ing", "well", "##s"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def fast(tokenizer: Tokenizer, **roles: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML; its EOS is another token than the end of a turn."""
    tokenizer = fast(byte_level(), eos_token="<|end|>", additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def make() -> dict[str, Callable[..., Tokenizer]]:
    return {"byte_level": byte_level, "unigram": unigram, "word_piece": word_piece, "fast": fast}
