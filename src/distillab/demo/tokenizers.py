"""Train the demo's two tokenizers: one size, two vocabularies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distillab.errors import ConfigError
from distillab.files import new_folder

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
MIN_SIZE = len(SPECIAL_TOKENS) + 256 + 100


def train_tokenizers(texts: Sequence[str], *, size: int, folder: Path) -> tuple[Path, Path]:
    """Train tokenizer A (byte-level BPE) and tokenizer B (BPE over `▁` words with byte fallback) on one corpus.

    Both have exactly `size` tokens, the same special tokens with the same ids, and lose no text. A check of
    sizes finds no difference, yet nearly every id means something else.

    Args:
        texts: the corpus, the same for both.
        size: tokens of each vocabulary.
        folder: gets the subfolders `tokenizer-a` and `tokenizer-b`, in Hugging Face's layout.
    Returns:
        the two subfolders, A first.
    Raises:
        ConfigError: `size` is too small for bytes and letters, or larger than the corpus can fill.
    """
    if size < MIN_SIZE:
        raise ConfigError(
            "A demo tokenizer needs room for the special tokens, 256 bytes and the letters.",
            facts=[f"size: {size}"],
            fix=f"use at least {MIN_SIZE}",
        )
    paths = folder / "tokenizer-a", folder / "tokenizer-b"
    for path, tokenizer in zip(paths, (_byte_level(texts, size), _word_pieces(texts, size)), strict=True):
        if tokenizer.get_vocab_size() != size:
            raise ConfigError(
                "The corpus is too small for a vocabulary of this size.",
                facts=[f"wanted: {size} tokens", f"{path.name} got: {tokenizer.get_vocab_size()}"],
                fix="use a smaller vocabulary or more text",
            )
        _save(tokenizer, path)
    return paths


def _byte_level(texts: Sequence[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_pieces(texts: Sequence[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL_TOKENS, *_BYTE_TOKENS], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # Byte tokens were declared special only to get their ids. They must not match the letters "<0x41>" in a text.
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    plain: Tokenizer = Tokenizer.from_str(json.dumps(written))
    return plain


def _save(tokenizer: Tokenizer, path: Path) -> None:
    pad, bos, eos = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)
    with new_folder(path, replace=True) as made:
        fast.save_pretrained(made)
