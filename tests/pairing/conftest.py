"""Real tokenizers from the materials, and tiny ones of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distillab.pairing.loading import LoadedTokenizer, load_tokenizer

Wrap = Callable[..., LoadedTokenizer]


@pytest.fixture(scope="session")
def real(materials: Path) -> Callable[[str], LoadedTokenizer]:
    """Load a tokenizer of the materials by its folder name, once a session."""
    loaded: dict[str, LoadedTokenizer] = {}

    def load(name: str) -> LoadedTokenizer:
        if name not in loaded:
            loaded[name] = load_tokenizer(str(materials / "tokenizers" / name))
        return loaded[name]

    return load


def _wrap(
    backend: Tokenizer,
    name: str = "tiny",
    eos: str | None = "</s>",
    bos: str | None = "<s>",
    unk: str | None = "<unk>",
    chat_template: str | None = None,
) -> LoadedTokenizer:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, unk_token=unk, chat_template=chat_template
    )
    return LoadedTokenizer(tokenizer, name, name, ())


@pytest.fixture(scope="session")
def wrap() -> Wrap:
    return _wrap


def _toy(
    merges: list[tuple[str, str]], extra: tuple[str, ...] = (), bos: bool = True, prefix: bool = True
) -> Tokenizer:
    """SentencePiece-like BPE over ASCII letters with byte fallback; ids follow the order of the merges."""
    vocab = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))])}
    for piece in ["▁", *"abcdefghijklmnopqrstuvwxyz", *("".join(pair) for pair in merges), *extra]:
        vocab.setdefault(piece, len(vocab))
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


@pytest.fixture(scope="session")
def toy() -> Callable[..., Tokenizer]:
    return _toy


MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("q", "u"), ("qu", "i"), ("i", "c"), ("ic", "k"), ("▁", "qu")]


@pytest.fixture
def merges() -> list[tuple[str, str]]:
    return list(MERGES)


@pytest.fixture(scope="session")
def unigram() -> Tokenizer:
    """T5-like: Unigram with Metaspace."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁the", -1.0), ("s", -3.5), ("▁fox", -2.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrtuvwxyz"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return backend


@pytest.fixture(scope="session")
def wordpiece() -> Tokenizer:
    """BERT-like: lower case, ## inside of a word."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "fox", "##es", "jump", "##ed", "##s", ".", "e", "##e"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return backend


@pytest.fixture
def edited(materials: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy a tokenizer folder of the materials, its JSON files changed by functions."""

    def copy(name: str, **changes: Callable[[dict[str, object]], None]) -> Path:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in (materials / "tokenizers" / name).glob("*.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.stem in changes:
                changes[file.stem](content)
            (folder / file.name).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return copy
