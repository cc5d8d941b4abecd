"""The MLP and the attention of a decoder block, where both can be made narrower."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillab.errors import ConfigError
from distillab.models.structure import bare_model, decoder_blocks, model_shape

_MLP = ("gate_proj", "up_proj", "down_proj")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, eq=False)
class WidthParts:
    """The projections of one block.

    Attributes:
        down: reads the channels of the MLP.
        output: reads what the heads give, one after another; those of a key-value head stand together.
        cuts: parameter -> (dimension, "channels", "queries" or "groups"): what of it goes with them.
    """

    down: torch.nn.Module
    output: torch.nn.Module
    cuts: dict[str, tuple[int, str]]


def width_parts(model: torch.nn.Module) -> list[WidthParts]:
    """Return the projections of every block.

    Raises:
        ConfigError: a block has an MLP or an attention of another form, or one whose other parts (a norm over all
            channels, experts) would give something else with fewer channels or heads.
    """
    return [_parts(block, number, model) for number, block in enumerate(decoder_blocks(model), start=1)]


def _parts(block: torch.nn.Module, number: int, model: torch.nn.Module) -> WidthParts:
    found = [_with_children(block, names) for names in (_MLP, _ATTENTION)]
    for names, there in zip((_MLP, _ATTENTION), found, strict=True):
        if len(there) != 1:
            raise _unknown(model, number, f"{len(there)} parts have {', '.join(names)}; needed: 1")
    (mlp, mlp_module), (attention, attention_module) = (there[0] for there in found)
    cuts: dict[str, tuple[int, str]] = {}
    for prefix, names, kinds in (
        (mlp, _MLP, ("channels", "channels", "channels")),
        (attention, _ATTENTION, ("queries", "groups", "groups", "queries")),
    ):
        for name, kind in zip(names, kinds, strict=True):
            out = name in ("down_proj", "o_proj")
            cuts[f"{prefix}.{name}.weight"] = (int(out), kind)
            if not out:
                cuts[f"{prefix}.{name}.bias"] = (0, kind)
    kept = {f"{mlp}.down_proj.bias", f"{attention}.o_proj.bias"}
    width = model_shape(model).head_width
    for prefix, module in ((mlp, mlp_module), (attention, attention_module)):
        for name, parameter in module.named_parameters(prefix=prefix):
            of_each_head = prefix == attention and parameter.shape == (width,)  # a norm over one head
            if name not in cuts and name not in kept and not of_each_head:
                raise _unknown(model, number, f"{name} {tuple(parameter.shape)} depends on the width")
    return WidthParts(mlp_module.get_submodule("down_proj"), attention_module.get_submodule("o_proj"), cuts)


def _with_children(block: torch.nn.Module, names: tuple[str, ...]) -> list[tuple[str, torch.nn.Module]]:
    return [
        (name, module)
        for name, module in block.named_modules()
        if all(child in dict(module.named_children()) for child in names)
    ]


def _unknown(model: torch.nn.Module, number: int, fact: str) -> ConfigError:
    return ConfigError(
        "Channels and heads of this model cannot be dropped: its MLP or attention has a form that is not known here.",
        where=f"block {number} of {type(bare_model(model)).__name__}",
        facts=[fact, f"known: an MLP of {', '.join(_MLP)}, an attention of {', '.join(_ATTENTION)}, and nothing else"],
        fix="leave mlp and heads out, and drop whole blocks by keep_layers",
    )
