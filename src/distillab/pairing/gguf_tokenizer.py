"""Load the tokenizer of a GGUF file, with text split as the model was trained.

A GGUF file holds the vocabulary, the merges and the name of the pre-tokenizer, which splits text before merging.
transformers 5.23 splits as GPT-2 does where it does not know the name: SmolLM2 then has two tokens for the newlines of
"\\n\\n1.", which it was trained on as one. Of a SentencePiece vocabulary it drops the first of several spaces.
"""

from __future__ import annotations

from typing import Any

from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillab.errors import DataError, TokenizerMismatch
from distillab.gguf_header import TOKENS, read_header
from distillab.library_errors import library_errors
from distillab.paths import local_path
from distillab.pretrained import tokenizer_from

_OTHER = "name the tokenizer of the original model, a folder or hub id: tokenizer: … in the recipe"
# names of llama.cpp (src/llama-vocab.cpp)
_AS_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling", "roberta-bpe"})
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})


def gguf_tokenizer(path: str) -> tuple[PreTrainedTokenizerFast, tuple[str, ...]]:
    """Return the tokenizer of a GGUF file, and notes on what was done so that its ids are the model's.

    Raises:
        DataError: the file is damaged, or holds no tokenizer that transformers can build.
        TokenizerMismatch: the pre-tokenizer is unknown, or the ids are not those of the file.
    """
    stated = read_header(local_path(path), error=DataError).metadata
    with library_errors(DataError, "transformers cannot load the tokenizer.", where=path, fix=_OTHER):
        tokenizer: PreTrainedTokenizerFast = tokenizer_from(path, revision=None, rebuild=False)
    tokens = stated[TOKENS]
    if len(tokenizer) != len(tokens):
        raise TokenizerMismatch(
            "The loaded tokenizer does not have the tokens of its GGUF file.",
            where=path,
            facts=[f"loaded: {len(tokenizer):,}", f"in the file: {len(tokens):,}"],
            fix=_OTHER,
        )
    note = "built from the vocabulary of the GGUF file; there is no tokenizer.json that it could be checked against"
    return tokenizer, (note, *_split_as_stated(tokenizer, stated, path))


def _split_as_stated(tokenizer: PreTrainedTokenizerFast, stated: dict[str, Any], path: str) -> tuple[str, ...]:
    """Split text as the file states, where transformers does not; return notes."""
    backend = tokenizer.backend_tokenizer
    built, name = backend.pre_tokenizer, stated.get("tokenizer.ggml.pre")
    if isinstance(built, pre_tokenizers.Metaspace):
        prefix = [normalizers.Prepend("▁")] if stated.get("tokenizer.ggml.add_space_prefix", True) else []
        backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
        untyped: Any = tokenizer
        untyped.add_bos_token = stated.get("tokenizer.ggml.add_bos_token", True)  # transformers 5.19 does not read it
        return ("every space counts, as in SentencePiece; transformers drops one of several, and it was set here",)
    if not isinstance(built, pre_tokenizers.ByteLevel) or name in _AS_GPT2:
        return ()
    if name not in _SINGLE_DIGITS:
        raise TokenizerMismatch(
            "The GGUF file names a pre-tokenizer that neither transformers nor distillab knows.",
            where=path,
            facts=[f"tokenizer.ggml.pre: {name!r}", "transformers would split text as GPT-2 does, without a message"],
            fix=_OTHER,
        )
    digits: Any = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, built])
    return (f"the pre-tokenizer {name} splits digits first; transformers does not know it, and it was set here",)
