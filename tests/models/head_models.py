"""Tiny random models of many kinds, each with something of its own between its hidden states and its logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 48
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _with_bias(model: PhiForCausalLM) -> PhiForCausalLM:
    torch.nn.init.normal_(model.lm_head.bias)  # fresh biases are zero
    return model


KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **_NO_DROPOUT)
    ),
    "head bias": lambda: _with_bias(PhiForCausalLM(PhiConfig(**_SIZES))),
    "logit scale": lambda: CohereForCausalLM(CohereConfig(**_SIZES, logit_scale=0.3)),
    "logits divided": lambda: GraniteForCausalLM(GraniteConfig(**_SIZES, logits_scaling=4.0)),
    "soft cap": lambda: Gemma2ForCausalLM(Gemma2Config(**_SIZES, head_dim=8, final_logit_softcapping=0.5)),
}


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A model of the kind with weights drawn from the seed."""
    torch.manual_seed(seed)
    return KINDS[kind]()
