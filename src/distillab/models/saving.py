"""Save a student so that plain transformers generates the same text as in its evaluation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from distillab.errors import NumericsError
from distillab.files import new_folder
from distillab.models.adapters import save_adapter
from distillab.models.generation import all_stop_ids
from distillab.models.sharded import described_as_whole, local, reshard
from distillab.models.structure import bare_model, is_adapted


def saved_dtype(wanted: str, source: PreTrainedConfig, model: PreTrainedModel) -> torch.dtype:
    """Return the dtype of the saved weights.

    Args:
        wanted: source (what the source's config states; the model's own where it states none), or a type's name.
    """
    if wanted == "source":
        stated = source.dtype
        return model.dtype if stated is None else getattr(torch, str(stated).removeprefix("torch."))
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round every weight to what `dtype` can hold, in place; the weights keep their own type.

    Of a divided model each process rounds its part.

    Raises:
        NumericsError: a finite weight is beyond the type's range.
    """
    reshard(model)
    for name, whole in model.named_parameters():
        kept = is_adapted(model) and not whole.requires_grad  # the adapters alone are saved
        parameter = local(whole)
        if kept or not parameter.is_floating_point() or parameter.dtype == dtype:
            continue
        rounded = parameter.to(dtype).to(parameter.dtype)
        if not torch.equal(rounded.isfinite(), parameter.isfinite()):
            raise NumericsError(
                "A trained weight is beyond the range of the type that it is to be saved in.",
                where=name,
                facts=[f"largest: {float(parameter.abs().max()):.3g}, of {dtype}: {torch.finfo(dtype).max:.3g}"],
                fix="set student.save_dtype: bfloat16 or float32",
            )
        parameter.copy_(rounded)


def save_student(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    dtype: torch.dtype | None = None,
    base_sha256: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, tokenizer with its chat template, and a generation config of what the evaluation used.

    The generation config holds every id that ended an answer, the padding id and the begin token, and no other setting
    of the checkpoint that it was made from: none of those was used in the evaluation.
    Of a peft model the adapters alone are written.

    Args:
        folder: written atomically; one of the same name is replaced.
        stop_ids: ids that end an answer, in addition to those of the model's generation config.
        pad_id: of the batches.
        dtype: of the saved weights; default: the model's. See `round_weights`.
        base_sha256: of the weights that adapters were trained on.
        weights: the whole ones of a divided model (`full_tensors`); default: the model's.
    """
    bare = bare_model(model)
    own, stops = bare.generation_config, all_stop_ids(model, stop_ids)
    bare.generation_config = GenerationConfig(
        bos_token_id=None if own is None else own.bos_token_id,
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=pad_id,
    )
    with new_folder(folder, replace=True) as made, described_as_whole(model):
        try:
            if is_adapted(model):
                save_adapter(made, model, dtype=dtype or bare.dtype, base_sha256=base_sha256)
                bare.generation_config.save_pretrained(made)
            else:
                tensors = weights if dtype is None else _cast(weights or model.state_dict(), dtype)
                model.save_pretrained(made, state_dict=None if tensors is None else dict(tensors))
        finally:
            bare.generation_config = own
        if dtype is not None and not is_adapted(model):
            config = copy.deepcopy(model.config)  # save_pretrained states the type of the model in memory
            config.dtype = dtype
            config.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors in another dtype; those that share memory still share it."""
    made: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place not in made:
            made[place] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        found[name] = made[place]
    return found
