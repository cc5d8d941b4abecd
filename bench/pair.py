"""The two models and what they read: random, from one seed, the same in every environment.

Imports torch and transformers alone, because the environment of the peers has no more.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from bench.settings import SEED, WEIGHTS_STD, Side, Size


def teacher_of(size: Size, device: str = "cpu") -> LlamaForCausalLM:
    """The teacher: in eval mode, without gradients, bfloat16 on a GPU."""
    model = _llama(size.teacher, size, seed=SEED + 1, device=device)
    return model.eval().requires_grad_(False).to(torch.bfloat16 if device == "cuda" else torch.float32)


def student_of(size: Size, device: str = "cpu") -> LlamaForCausalLM:
    """The student, in float32 and in train mode."""
    return _llama(size.student, size, seed=SEED + 2, device=device, tied=size.tied).train()


def token_ids(size: Size) -> Tensor:
    """(rows, row length) int64 ids, none of them special."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(3, size.vocabulary, (size.rows, size.row_length), generator=generator)


def answer_mask(size: Size) -> Tensor:
    """(rows, row length) bool: the second half of every row is its answer."""
    mask = torch.zeros(size.rows, size.row_length, dtype=torch.bool)
    mask[:, size.row_length // 2 :] = True
    return mask


def digest(model: LlamaForCausalLM, ids: Tensor) -> str:
    """A short fingerprint of weights and ids: two environments that agree have the same of both."""
    state = hashlib.sha256(ids.numpy().tobytes())
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(value.detach().float().cpu().numpy().tobytes())
    return state.hexdigest()[:16]


def _llama(side: Side, size: Size, *, seed: int, device: str, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=side.width,
        intermediate_size=side.inner,
        num_hidden_layers=side.blocks,
        num_attention_heads=side.heads,
        num_key_value_heads=side.key_value_heads or side.heads,
        max_position_embeddings=size.length,
        initializer_range=WEIGHTS_STD,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.device(device):  # seven billion weights are drawn where they will live
        return LlamaForCausalLM(config)
