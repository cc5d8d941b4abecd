"""Find the parts of a decoder model, without a list of architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from distillab.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """Sizes that terms compare.

    `blocks` counts decoder blocks, `width` is that of the hidden states. All three of heads are 0 for a model without
    attention (Mamba, RWKV).
    """

    blocks: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int


def bare_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside of wrappers (DDP, compiled, PEFT).

    Raises:
        ConfigError: there is none.
    """
    inner = model
    while not isinstance(inner, PreTrainedModel):
        # its own children only: PEFT's wrappers pass other names on to what they wrap
        children = dict(inner.named_children())
        for name in ("module", "_fsdp_wrapped_module", "_orig_mod", "base_model", "model"):
            if name in children:
                inner = children[name]
                break
        else:
            raise ConfigError(
                "This is no transformers model, nor a wrapper around one.",
                facts=[f"class: {type(model).__name__}", f"innermost: {type(inner).__name__}"],
            )
    return inner


def is_adapted(model: torch.nn.Module) -> bool:
    """Return whether a model is one of peft, with adapters."""
    return hasattr(model, "peft_config")


def model_shape(model: torch.nn.Module) -> ModelShape:
    """Return the sizes of a model, from its configuration."""
    return config_shape(bare_model(model).config)


def config_shape(config: PreTrainedConfig) -> ModelShape:
    """Return the sizes of the model that a configuration describes; no weights are needed."""
    config = config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    return ModelShape(
        blocks=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        heads=heads,
        key_value_heads=_key_value_heads(config, heads),
        head_width=int(getattr(config, "head_dim", None) or config.hidden_size // heads) if heads else 0,
    )


def _key_value_heads(config: PreTrainedConfig, heads: int) -> int:
    if config.model_type == "falcon":  # has its own name for them, and reads it in its newer layout only
        if config.new_decoder_architecture or not config.multi_query:
            return int(config.num_kv_heads)
        return 1
    return int(getattr(config, "num_key_value_heads", None) or heads) if heads else 0


def decoder_blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Return the decoder blocks of a model, in their order.

    Raises:
        ConfigError: no list of modules has as many entries as the configuration has layers.
    """
    body = decoder_body(model)
    wanted = model_shape(model).blocks
    # the first one in the tree: lists inside of blocks (experts) come after the list of blocks
    for module in body.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return module
    raise ConfigError(
        "The model's decoder blocks were not found, so its hidden states and attention cannot be compared.",
        facts=[f"class: {type(bare_model(model)).__name__}", f"no list of {wanted} modules"],
        fix="use a method that reads logits or text",
    )


def decoder_body(model: torch.nn.Module) -> torch.nn.Module:
    """Return the part that turns tokens into the hidden states that the head reads: embeddings, blocks, final norm."""
    return cast(torch.nn.Module, bare_model(model).get_decoder())


def head_module(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module that turns hidden states into logits.

    Raises:
        ConfigError: the model has none.
    """
    inner = bare_model(model)
    head = cast(torch.nn.Module | None, inner.get_output_embeddings())
    if head is None:
        raise ConfigError("The model has no output embeddings.", facts=[f"class: {type(inner).__name__}"])
    return head
