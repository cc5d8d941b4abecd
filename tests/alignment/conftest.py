"""Sides of a pair: real tokenizers of the materials, and two small ones that are made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distillab.alignment.projection import VocabularyProjection
from distillab.alignment.tables import TokenTable
from distillab.alignment.vocabulary import project_vocabulary
from distillab.data.pieces import PieceMaker, canonical_pieces
from distillab.pairing.loading import load_tokenizer
from distillab.pairing.token_bytes import TokenMeaning, token_meanings

_TRAINED_ON = [
    "The quick brown fox jumps over the lazy dog. What is 12 + 345? It is 357.",
    "def f(x):\n    return x + 1\n",
    "快速的棕色狐狸跳过懒狗。 😀 naïve café",
] * 4


@dataclass(frozen=True)
class Side:
    tokenizer: PreTrainedTokenizerFast
    meanings: list[TokenMeaning]
    table: TokenTable
    pieces: PieceMaker

    def ids(self, text: str, *, special: bool = False) -> np.ndarray:
        return np.array(self.tokenizer(text, add_special_tokens=special)["input_ids"], dtype=np.int32)

    def all_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.ids(text, special=True) for text in texts]


def side(tokenizer: PreTrainedTokenizerFast) -> Side:
    tokenizer.model_max_length = 10**9
    meanings = token_meanings(tokenizer)
    return Side(tokenizer, meanings, TokenTable.of(meanings), canonical_pieces(tokenizer, meanings))


def _qwen_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE that cuts digits one by one and knows chat markers."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\p{N}|\p{L}+| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TRAINED_ON, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def real(materials: Path) -> Callable[[str], Side]:
    """A side by the folder name of a real tokenizer, or `qwen-like`."""
    loaded: dict[str, Side] = {}

    def load(name: str) -> Side:
        if name not in loaded:
            made = (
                _qwen_like() if name == "qwen-like" else load_tokenizer(str(materials / "tokenizers" / name)).tokenizer
            )
            loaded[name] = side(made)
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def built(real: Callable[[str], Side]) -> Callable[[str, str], VocabularyProjection]:
    """The projection of a teacher and a student, by their names."""
    made: dict[tuple[str, str], VocabularyProjection] = {}

    def build(teacher: str, student: str) -> VocabularyProjection:
        if (teacher, student) not in made:
            made[teacher, student] = project_vocabulary(
                teacher=real(teacher).meanings,
                student=real(student).meanings,
                pieces=real(student).pieces,
                teacher_fingerprint="t",
                student_fingerprint="s",
            )
        return made[teacher, student]

    return build
