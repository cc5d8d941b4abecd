"""Record queries, keys and values of a decoder block, as its projections give them.

They are taken by forward hooks, so any attention kernel will do. "As the projections give them" means: adapters (LoRA)
and biases included; before rotary embeddings, before the norm that some models put on queries and keys (Qwen3), and
before any scaling (OPT).

Shape letters: B sequences, L positions, E width of a projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillab.errors import ConfigError
from distillab.models.attention import attention_module
from distillab.models.structure import ModelShape, bare_model, decoder_blocks, model_shape


@dataclass(frozen=True)
class QKV:
    """Queries (B, L, heads × head width), keys and values (B, L, key-value heads × head width), before RoPE.

    Heads are concatenated, in the model's order.
    """

    query: Tensor
    key: Tensor
    value: Tensor


Split = Callable[[Tensor, ModelShape], tuple[Tensor, Tensor, Tensor]]


def _one_after_another(fused: Tensor, shape: ModelShape) -> tuple[Tensor, Tensor, Tensor]:
    """Return all queries, then all keys, then all values."""
    query, key = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    return fused[..., :query], fused[..., query : query + key], fused[..., query + key :]


def _by_group(fused: Tensor, shape: ModelShape) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each key-value head its queries, its key, its value. With as many as heads: q k v, head by head."""
    groups = shape.key_value_heads
    parts = fused.unflatten(-1, (groups, shape.heads // groups + 2, shape.head_width))
    return parts[..., :-2, :].flatten(-3), parts[..., -2, :].flatten(-2), parts[..., -1, :].flatten(-2)


_SEPARATE = ("q_proj", "k_proj", "v_proj")
# Name of the fused projection -> the model types whose layout was read in their code. The name alone is not enough:
# gpt_bigcode calls another layout c_attn too.
_FUSED: dict[str, tuple[frozenset[str], Split]] = {
    "c_attn": (frozenset({"gpt2"}), _one_after_another),
    "qkv_proj": (frozenset({"phi3"}), _one_after_another),
    "query_key_value": (frozenset({"gpt_neox", "bloom", "falcon"}), _by_group),
}


def require_projections(model: torch.nn.Module, blocks: frozenset[int]) -> None:
    """Check, when the run is built, that the projections of these blocks (from 1) can be taken.

    Raises:
        ConfigError: a block does not exist, or its layout is not known.
    """
    layers = decoder_blocks(model)
    for number in sorted(blocks):
        if not 1 <= number <= len(layers):
            raise ConfigError(
                "A mapped block does not exist.", facts=[f"mapped: {number}", f"the model has 1 to {len(layers)}"]
            )
        for handle in project(layers[number - 1], number, {}, model=model):
            handle.remove()


def project(block: torch.nn.Module, number: int, found: dict[int, QKV], *, model: torch.nn.Module) -> list[Any]:
    """Register hooks that put the block's projections into `found` under its number; returns their handles.

    Args:
        block: a decoder block of `model`.
        number: its number, from 1.
    Raises:
        ConfigError: the block's projections are laid out in a way that is not supported; or, when a hook runs, they
            have another width than the configuration states.
    """
    bare = bare_model(model)
    shape, kind = model_shape(bare), str(bare.config.get_text_config().model_type)
    attention = attention_module(block, number)

    def keep(query: Tensor, key: Tensor, value: Tensor) -> None:
        _require_widths(query, key, value, shape=shape, number=number, kind=kind)
        found[number] = QKV(query, key, value)

    for module in attention.modules():
        children = dict(module.named_children())
        if all(name in children for name in _SEPARATE):
            return _separate_hooks([children[name] for name in _SEPARATE], keep)
        for name, (kinds, split) in _FUSED.items():
            if name in children and kind in kinds:
                return [_fused_hook(children[name], split, shape, keep)]
    raise ConfigError(
        "How this model lays out its queries, keys and values is not known here.",
        where=f"block {number} of a {kind} model",
        facts=[
            f"{type(attention).__name__} has: {', '.join(name for name, _ in attention.named_children())}",
            f"known: {', '.join(_SEPARATE)}",
            *(f"known: {name} of {', '.join(sorted(kinds))}" for name, (kinds, _) in _FUSED.items()),
        ],
        fix="use a method without attention_relations",
    )


Keep = Callable[[Tensor, Tensor, Tensor], None]


def _separate_hooks(modules: list[torch.nn.Module], keep: Keep) -> list[Any]:
    parts: dict[int, Tensor] = {}

    def hook_of(place: int) -> Callable[[torch.nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            parts[place] = output
            if len(parts) == len(modules):
                keep(parts[0], parts[1], parts[2])
                parts.clear()

        return hook

    return [module.register_forward_hook(hook_of(place)) for place, module in enumerate(modules)]


def _fused_hook(module: torch.nn.Module, split: Split, shape: ModelShape, keep: Keep) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        expected = (shape.heads + 2 * shape.key_value_heads) * shape.head_width
        if output.shape[-1] != expected:
            raise _wrong_width(f"fused width {output.shape[-1]}", f"expected {expected}", shape)
        keep(*split(output, shape))

    return module.register_forward_hook(hook)


def _require_widths(query: Tensor, key: Tensor, value: Tensor, *, shape: ModelShape, number: int, kind: str) -> None:
    given = tuple(part.shape[-1] for part in (query, key, value))
    narrow = shape.key_value_heads * shape.head_width
    expected = (shape.heads * shape.head_width, narrow, narrow)
    if given != expected:
        raise _wrong_width(f"block {number} of a {kind} model gives {given}", f"expected {expected}", shape)


def _wrong_width(given: str, expected: str, shape: ModelShape) -> ConfigError:
    return ConfigError(
        "The model's queries, keys and values have other widths than its configuration states.",
        facts=[
            given,
            expected,
            f"heads {shape.heads}, key-value heads {shape.key_value_heads}, head width {shape.head_width}",
        ],
        fix="use a method without attention_relations, or map other blocks",
    )
