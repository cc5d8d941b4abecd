"""Build the demo's tiny models: small enough to train in a minute, of the same class as real ones."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distillab.demo.tokenizers import SPECIAL_TOKENS

MAX_POSITIONS = 128

_SHAPES: dict[str, tuple[int, int, int, int]] = {
    # kind: width, inner width, layers, heads
    "teacher": (96, 288, 3, 4),
    "student": (64, 192, 2, 4),
}


def build_model(kind: Literal["teacher", "student"], vocab_size: int, seed: int) -> LlamaForCausalLM:
    """Build a fresh Llama with weights drawn from `seed`; the global random state is left as it was.

    Args:
        kind: which of the two shapes; input and output embeddings are one matrix.
        vocab_size: tokens of its tokenizer; the logits have exactly this width.
        seed: of the weights.
    """
    width, inner, layers, heads = _SHAPES[kind]
    pad, bos, eos = range(len(SPECIAL_TOKENS))
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
