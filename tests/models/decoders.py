"""Tiny random models of the kinds of decoder that hidden states are read from."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BitNetConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCABULARY = 61
_LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, _LLAMA_LIKE),
    "mistral": (MistralConfig, _LLAMA_LIKE),
    "qwen2": (Qwen2Config, _LLAMA_LIKE),
    "gemma2": (Gemma2Config, {**_LLAMA_LIKE, "head_dim": 8}),
    "bitnet": (BitNetConfig, _LLAMA_LIKE),
    "gpt2": (GPT2Config, {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "opt": (
        OPTConfig,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": (
        GPTNeoXConfig,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
}


def tiny_model(kind: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal language model in eval mode: 3 blocks, width 16, unless `changes` say otherwise."""
    config_class, settings = KINDS[kind]
    torch.manual_seed(seed)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_class(**{**settings, **special, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            # norms that are all ones, and biases that are all zeros, would hide a forgotten norm
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
