"""LoRA adapters (peft): put onto a model, saved, loaded, and merged into its weights.

An adapted student is peft's `PeftModel`, so that a model of a recipe and one that a Python user gives are the same.
`models.structure` finds the transformers model inside of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor.experimental import implicit_replication
from transformers import PreTrainedModel

from distillab.config.student import AdapterConfig
from distillab.errors import ConfigError, DistillabError
from distillab.library_errors import library_errors
from distillab.models.quantised import dequantise, quantisation
from distillab.models.sharded import reshard
from distillab.models.structure import bare_model, head_module, is_adapted
from distillab.models.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_SHA256

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(
    model: PreTrainedModel, settings: AdapterConfig, *, seed: int, revision: str | None = None
) -> PreTrainedModel:
    """Return the model, in place, with new adapters; all its own weights are frozen.

    B begins at zero, so the model computes what it computed before; A is drawn from `seed`.

    Args:
        revision: of the model, for those who load the adapters.

    Raises:
        ConfigError: peft is not installed; the model has adapters already; no module has the names of the targets;
            or one is the head, and its weights are those of the input embeddings.
    """
    peft = _peft()
    if is_adapted(model):
        raise ConfigError(
            "The student has adapters already, so student.adapter would put others on top of them.",
            fix="leave student.adapter out; or give the model without adapters",
        )
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    _require_no_tied_head(model, targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        revision=revision,
    )
    torch.manual_seed(seed)
    with library_errors(
        ConfigError,
        "The adapters cannot be put on the student.",
        where=f"student.adapter.targets: {targets}",
        fix=f"write all-linear, or some of: {', '.join(sorted(_linear_names(model)))}",
    ):
        adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = model.config.name_or_path  # without secrets, unlike peft's
    return cast(PreTrainedModel, adapted)


def _require_no_tied_head(model: PreTrainedModel, targets: str | list[str]) -> None:
    head = next(name for name, module in model.named_modules() if module is head_module(model))
    if model.config.get_text_config().tie_word_embeddings and head in targets:
        raise ConfigError(
            "The head's weights are those of the input embeddings, so an adapter on the head alone cannot be merged.",
            where=f"student.adapter.targets: {targets}",
            fix=f"leave {head} out of targets",
        )


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformers model with its adapters in its weights; the model itself where it has none.

    Quantised weights become the numbers that they stand for first, so that the sum is not quantised again.
    """
    if not is_adapted(model):
        return model
    adapted = cast("PeftModel", model)
    if quantisation(bare_model(adapted).config) is None:
        reshard(model)
        with implicit_replication():  # every process has whole adapters, and adds them to its part of the weights
            return cast(PreTrainedModel, cast(Any, adapted).merge_and_unload())
    peft, config, tensors = _peft(), _config(adapted), adapter_tensors(adapted)
    dtype = next(tensor.dtype for tensor in tensors.values())
    whole = dequantise(cast(PreTrainedModel, cast(Any, adapted).unload()), dtype=dtype)
    again = peft.get_peft_model(whole, config)
    peft.set_peft_model_state_dict(again, dict(tensors))
    return cast(PreTrainedModel, again.merge_and_unload())


def adapter_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the active adapter, by their names in a file of peft."""
    return dict(_peft().get_peft_model_state_dict(model, save_embedding_layers=False))


def learning(model: torch.nn.Module) -> str:
    """Return what is trained of an adapted model, in one line for the record."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    config = _config(cast("PeftModel", model))
    full = sorted(config.modules_to_save or ())
    rest = f"trained in full: {', '.join(full)}" if full else "embeddings, norms and every other weight are frozen"
    return f"adapters of rank {config.r}: {trained:,} parameters are trained; {rest}"


def save_adapter(folder: Path, model: torch.nn.Module, *, dtype: torch.dtype, base_sha256: str | None = None) -> None:
    """Write the adapters into a folder as peft does; `AutoPeftModelForCausalLM.from_pretrained` loads it.

    Args:
        base_sha256: of the weights that they were trained on.
    """
    config = copy.deepcopy(_config(cast("PeftModel", model)))
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    base = {} if base_sha256 is None else {BASE_SHA256: base_sha256}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt", **base})


def load_adapter(model: PreTrainedModel, folder: Path, *, error: type[DistillabError]) -> PreTrainedModel:
    """Return the transformers model, in place, with the adapters of a peft folder: see `with_adapter`."""
    return bare_model(with_adapter(model, folder, error=error))


def with_adapter(model: PreTrainedModel, folder: Path, *, error: type[DistillabError]) -> PreTrainedModel:
    """Return peft's model: the model, in place, with the adapters of a peft folder.

    Only JSON and safetensors are read, and every tensor must have its place and shape in the model.

    Args:
        folder: checked by `weights.require_adapter`.
        error: the class to raise.
    Raises:
        DistillabError: the settings are of no plain LoRA, or the tensors do not fit the model.
    """
    peft = _peft()
    with library_errors(error, "The adapter's settings cannot be used.", where=str(folder / ADAPTER_CONFIG)):
        config = peft.PeftConfig.from_pretrained(str(folder))
    with library_errors(error, "The adapter's weights cannot be read.", where=str(folder / ADAPTER_WEIGHTS)):
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    _require_plain_lora(config, tensors, where=str(folder / ADAPTER_CONFIG), error=error)
    config.init_lora_weights, config.inference_mode = True, True
    with library_errors(error, "The adapter cannot be put on the model.", where=str(folder)):
        adapted = peft.get_peft_model(model, config)
    expected = {name: tensor.shape for name, tensor in adapter_tensors(adapted).items()}
    wrong = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in tensors or tensors[name].shape != expected.get(name)
    )
    if wrong:
        raise error(
            "The adapter does not fit the model.",
            where=str(folder),
            facts=[f"{len(wrong)} tensors are missing, left over or of another shape, e.g. {wrong[0]}"],
            fix="give the model that the adapter was trained on",
        )
    peft.set_peft_model_state_dict(adapted, tensors)
    return cast(PreTrainedModel, adapted)


def _require_plain_lora(config: Any, tensors: Mapping[str, Tensor], *, where: str, error: type[DistillabError]) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    wrong = [] if kind == "LORA" else [f"peft_type: {kind}"]
    if not wrong:
        largest = max((t.shape[0] for name, t in tensors.items() if "lora_A" in name and t.dim()), default=0)
        ranks = (config.r, *(config.rank_pattern or {}).values())
        wrong += [f"rank {rank}, and {largest} in the file" for rank in ranks if not 0 < rank <= largest]
        names = ("layer_replication", "modules_to_save", "trainable_token_indices", "target_parameters")
        wrong += [name for name in names if getattr(config, name, None)]
        if isinstance(config.target_modules, str):
            wrong.append("target_modules: a regular expression")
    if wrong:
        raise error("The adapter is not plain LoRA on named modules.", where=where, facts=wrong)


def _config(model: PeftModel) -> Any:
    return model.peft_config[model.active_adapters[0]]


def _linear_names(model: PreTrainedModel) -> set[str]:
    head = head_module(model)
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "Adapters need the package peft, and it is not installed.", fix="pip install 'distillab[lora]'"
        ) from error
    return peft
