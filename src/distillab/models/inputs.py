"""Make the arguments of a forward pass, so that no sample of a packed sequence reads another one.

Transformers separates samples by itself if it gets position ids that start again and *no* attention mask: eager, sdpa
and flex then build a block-diagonal mask. With the padding mask too, it builds a plain causal one, and samples read
each other. Without it, padding (position id 0 each) becomes samples of one token, which no token reads. Flash kernels
read position ids for one sequence only (B = 1), so they also get the places where samples begin.

Shapes: B sequences, L positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

from distillab.errors import ConfigError
from distillab.models.batch import TokenBatch
from distillab.models.structure import bare_model
from distillab.models.visibility import is_packed


def model_inputs(
    batch: TokenBatch, device: torch.device, *, model: torch.nn.Module
) -> dict[str, Tensor | bool | int | None]:
    """Return the keyword arguments of a forward pass without cache.

    Args:
        batch: input_ids, attention_mask, position_ids, each (B, L); packed or not.
        device: where the tensors go.
        model: a transformers model, wrapped or not. One whose forward takes no position ids (they follow from the
            attention mask there, or there are none) is not given any.
    Raises:
        ConfigError: the batch is packed, and the model's forward takes no argument that separates samples. Whether it
            uses such an argument rightly is checked by `require_packable`.
    """
    bare = bare_model(model)
    # the class's own forward: precision wrappers put others on the instance
    parameters = inspect.signature(type(bare).forward).parameters
    inputs: dict[str, Tensor | bool | int | None] = {
        "input_ids": batch["input_ids"].to(device),
        "attention_mask": batch["attention_mask"].to(device),
        "use_cache": False,
    }
    positions_BL = batch["position_ids"].to(device)
    if takes(parameters, "position_ids"):
        inputs["position_ids"] = positions_BL
    if not is_packed(batch):
        return inputs
    borders = _flash_borders(positions_BL) if is_flash_attention_requested(bare.config.get_text_config()) else {}
    missing = [name for name in ("position_ids", *borders) if not takes(parameters, name)]
    if missing:
        raise ConfigError(
            "Samples were packed into one sequence, and the model takes no argument that states where each begins.",
            facts=[f"model: {type(bare).__name__}", f"its forward does not take {', '.join(missing)}"],
            fix="set training.packing: false",
        )
    return {**inputs, **borders, "attention_mask": None}


def _flash_borders(positions_BL: Tensor) -> dict[str, Tensor | int]:
    """Return where samples begin when all sequences are concatenated, as transformers' flash attention takes it."""
    line = positions_BL.reshape(-1)
    end = torch.tensor([line.numel()], device=line.device)
    borders = torch.cat([(line == 0).nonzero()[:, 0], end]).to(torch.int32)
    longest = int(borders.diff().max())
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def takes(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    """Return whether a function of these parameters can be called with an argument of this name."""
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
