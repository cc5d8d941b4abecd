"""GGUF files that tests write with the package gguf: a tiny random Llama and a byte-level tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ("1. one\n\n2. two   22\n\n10. ten  and 4,567", "The house is red.\n\n\tIt is 12 years old; größer.") * 20
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Q = gguf.GGMLQuantizationType


def byte_level(*, single_digits: bool) -> Tokenizer:
    """Train a tokenizer that splits as SmolLM2's does, or as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    bytes_: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits: Any = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_]) if single_digits else bytes_
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def tiny_llama(vocab_size: int, *, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def _rotary_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp has the two halves of each head interleaved."""
    size = weight.shape[0] // heads
    order = [
        head * size + half * (size // 2) + at for head in range(heads) for at in range(size // 2) for half in (0, 1)
    ]
    return weight[order]


def tensors_of(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights under llama.cpp's names."""
    config, names = model.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    found = {}
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = _rotary_rows(
                weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            found[names.get_name(name, try_suffixes=(".weight",))] = weight
    return found


def write_gguf(
    file: Path,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    *,
    kind: Any = Q.F16,
    pre: str | None = "smollm",
    special: Sequence[str] = SPECIAL,
    architecture: str = "llama",
    more: dict[str, Any] | None = None,
    extra_tensor: str | None = None,
) -> Path:
    """Write a model with its tokenizer; matrices as `kind`, vectors as float32."""
    writer = gguf.GGUFWriter(file, architecture)
    _add_sizes(writer, model)
    vocabulary = sorted(tokenizer.get_vocab(), key=lambda token: tokenizer.token_to_id(token) or 0)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in special else normal for token in vocabulary])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    for key, value in (more or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    _add_tensors(writer, model, kind)
    if extra_tensor is not None:
        writer.add_tensor(extra_tensor, np.ones(8, np.float32))
    return _closed(writer, file)


def write_sentencepiece_gguf(file: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, *, kind: Any = Q.F32) -> Path:
    """Write a model with a SentencePiece tokenizer (BPE with bytes), of which ids 0 to 2 are <unk>, <s> and </s>."""
    writer = gguf.GGUFWriter(file, "llama")
    _add_sizes(writer, model)
    pieces = [tokenizer.id_to_token(id_) or "" for id_ in range(model.config.vocab_size)]
    special = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    is_byte = [len(piece) == 6 and piece.startswith("<0x") for piece in pieces]
    first = 3 + sum(is_byte)  # SentencePiece gives BPE piece number n the score -n
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0 if id_ < first else float(first - id_) for id_ in range(len(pieces))])
    writer.add_token_types(
        [
            special.get(piece, gguf.TokenType.BYTE if byte else gguf.TokenType.NORMAL)
            for piece, byte in zip(pieces, is_byte, strict=True)
        ]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    _add_tensors(writer, model, kind)
    return _closed(writer, file)


def _add_sizes(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_tensors(writer: gguf.GGUFWriter, model: LlamaForCausalLM, kind: Any) -> None:
    for name, weight in tensors_of(model).items():
        stored = kind if weight.ndim > 1 else Q.F32
        writer.add_tensor(name, gguf.quantize(weight, stored), raw_dtype=stored)


def _closed(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
