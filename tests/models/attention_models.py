"""Tiny models with random weights, one of each layout of attention that is read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 40

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
_FALCON = {**_SIZES, "alibi": False, "ffn_hidden_size": 48}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "llama_wide_heads": ("llama", {**_GROUPED, "head_dim": 16}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 3}),
    "bitnet": ("bitnet", _GROUPED),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 8}),
    "gemma": ("gemma", {**_GROUPED, "head_dim": 16}),
    "gpt2": ("gpt2", {**_GPT2, "attn_pdrop": 0.0}),
    "gpt2_dropout": ("gpt2", _GPT2),
    "opt": ("opt", {**_OPT, "ffn_dim": 48, "word_embed_proj_dim": 32, "attention_dropout": 0.0}),
    "phi3": ("phi3", _GROUPED),
    "gpt_neox": ("gpt_neox", _SIZES),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}),
    "falcon_one_key": ("falcon", {**_FALCON, "multi_query": True}),
    "falcon_heads": ("falcon", {**_FALCON, "multi_query": False}),
    "falcon_groups": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_oss": ("gpt_oss", {**_GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
}


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of the table in eval mode, with weights large enough that its attention is far from uniform."""
    kind, settings = SETTINGS[name]
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](vocab_size=VOCABULARY, initializer_range=0.3, **settings)
    return AutoModelForCausalLM.from_config(config).eval()
