"""Read the attention maps of single blocks: the probabilities, which fused kernels never store.

Eager attention computes them. A transformers attention module reads from its `config` which implementation to use, so
a mapped block's module gets a copy of that config with eager attention; the other blocks keep their kernel, and the
model's config is not changed (a saved model is the same). The mask is made once for all blocks, in the form that the
model's kernel takes, so a pre-hook turns it into the form that eager attention adds to its scores.

Shape letters: B sequences, L positions, H heads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.structure import bare_model, decoder_blocks

_NAMES = ("self_attn", "attn", "attention", "self_attention")
_PROBE_TOKENS = 8


def attention_module(block: torch.nn.Module, number: int) -> torch.nn.Module:
    """Return the self-attention of a decoder block.

    Args:
        number: of the block, from 1, for the message.
    Raises:
        ConfigError: the block has none, or one under an unknown name.
    """
    for name, child in block.named_children():
        if name in _NAMES:
            return child
    raise ConfigError(
        "The block has no self-attention that is known here.",
        where=f"block {number} ({type(block).__name__})",
        facts=[f"parts: {', '.join(name for name, _ in block.named_children())}", f"known: {', '.join(_NAMES)}"],
        fix="map blocks that have attention, or use a method that reads logits or hidden states",
    )


def keep_map(block: torch.nn.Module, number: int, found: dict[int, Tensor]) -> Any:
    """Register a hook that puts the block's map, (B, H, L, L), into `found` under its number; returns the handle.

    Raises (when the hook runs):
        ConfigError: the block gives no map; call `require_maps` before.
    """

    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(given, Tensor) or given.dim() != 4:
            raise _no_map(type(module).__name__, number, "it gives none under eager attention")
        found[number] = given

    return attention_module(block, number).register_forward_hook(hook)


def require_maps(model: torch.nn.Module, blocks: frozenset[int]) -> None:
    """Make the model form the attention maps of these blocks from now on; its logits do not change.

    Under sdpa only the given blocks are switched to eager attention; under a kernel whose mask holds less (flash, flex)
    the whole model is. Then the model reads two tiny batches, in training mode if it is trained, to check that its maps
    are distributions over the visible positions. A second call changes nothing.

    Args:
        blocks: counted from 1.
    Raises:
        ConfigError: the model has no such block, cannot switch, or its maps are no distributions (dropout on
            attention, attention sinks).
    """
    if not blocks:
        return
    bare = bare_model(model)
    _switch(bare, blocks)
    learns = any(parameter.requires_grad for parameter in bare.parameters())
    device = next(bare.parameters()).device
    length = _PROBE_TOKENS
    ids = torch.arange(length, device=device).expand(2, length) % bare.config.get_text_config().vocab_size
    whole, ragged = torch.ones_like(ids), torch.ones_like(ids)
    ragged[1, length // 2 :] = 0
    tolerance = 1e-4 if bare.dtype in (torch.float32, torch.float64) else 2e-2
    for mask in (whole, ragged):  # without padding, blocks can get no mask at all
        found: dict[int, Tensor] = {}
        with _probing(bare, blocks, found, learns=learns, device=device):
            bare(input_ids=ids, attention_mask=mask, use_cache=False)
        for number in sorted(blocks):
            _require_distributions(bare, number, found[number], mask.bool(), tolerance)


@contextmanager
def _probing(
    model: PreTrainedModel, blocks: frozenset[int], found: dict[int, Tensor], *, learns: bool, device: torch.device
) -> Iterator[None]:
    """Set hooks, mode and random numbers for the probe, and restore all of them afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    layers = decoder_blocks(model)
    handles = [keep_map(layers[number - 1], number, found) for number in blocks]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.train(learns)  # dropout shows in the maps of a model in training mode only
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def _switch(model: PreTrainedModel, blocks: frozenset[int]) -> None:
    layers = decoder_blocks(model)
    if min(blocks) < 1 or max(blocks) > len(layers):
        raise ConfigError(
            "A mapped block does not exist.",
            facts=[f"mapped: {sorted(blocks)}", f"{type(model).__name__} has blocks 1 to {len(layers)}"],
        )
    kind = model.config.get_text_config()._attn_implementation
    if kind == "eager":
        return
    if not model._can_set_attn_implementation():
        raise _no_map(type(model).__name__, None, f"its {kind} attention cannot be switched to eager")
    if kind != "sdpa":
        model.set_attn_implementation("eager")
        return
    for number in blocks:
        attention = attention_module(layers[number - 1], number)
        if _use_eager(attention):
            attention.register_forward_pre_hook(_additive_mask, with_kwargs=True)


def _use_eager(attention: torch.nn.Module) -> bool:
    """Give the module, and its submodules, a config with eager attention; return False if it has one already."""
    changed = False
    for module in attention.modules():
        config: object = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig) and config._attn_implementation != "eager":
            own = copy.copy(config)
            own._attn_implementation = "eager"
            cast(Any, module).config = own
            changed = True
    return changed


def _additive_mask(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Convert the mask that sdpa gets to 0 and the lowest number, as eager attention adds it to its scores.

    sdpa gets (B, 1, L, L) bool, or None for "causal, and nothing else".
    """
    states = args[0] if args else kwargs["hidden_states"]
    mask = kwargs.get("attention_mask")
    length = states.shape[1]
    if mask is None:  # in generation one position alone reads all that is cached: one row of zeros, for all keys
        mask = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()[None, None]
    if mask is not None and mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=states.dtype, device=states.device)
        mask = torch.where(mask, zero, torch.finfo(states.dtype).min)
    return args, {**kwargs, "attention_mask": mask}


def _require_distributions(
    model: PreTrainedModel, number: int, map_BHLL: Tensor, token_BL: Tensor, tolerance: float
) -> None:
    length = token_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=token_BL.device).tril()
    rows = map_BHLL.transpose(1, 2)[token_BL].float()  # (tokens, H, L)
    forbidden = ~(causal_LL & token_BL[:, None, :])[token_BL]
    leaked = float(rows.masked_fill(~forbidden[:, None], 0.0).abs().max())
    # not(≤): NaN is an error too
    if not leaked <= 0.0:
        raise _no_map(
            type(model).__name__, number, f"its map gives {leaked:.2g} to a position that must not be read (or NaN)"
        )
    off = float((rows.sum(dim=-1) - 1.0).abs().max())
    if not off <= tolerance:
        raise _no_map(
            type(model).__name__,
            number,
            f"the rows of its map sum to 1 ± {off:.2g}",
            fix="set the attention dropout in the student's config.json to 0 (attention_dropout, attn_pdrop); a model "
            "with attention sinks has no such map: use attention_relations",
        )


def _no_map(name: str, number: int | None, fact: str, *, fix: str | None = None) -> ConfigError:
    return ConfigError(
        "The model does not give attention maps that can be compared.",
        where=name if number is None else f"{name}, block {number}",
        facts=[fact],
        fix=fix or "use the term attention_relations, which works with any attention kernel",
    )
