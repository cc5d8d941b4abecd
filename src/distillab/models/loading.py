"""Load causal language models; errors name what is missing or does not fit."""

from __future__ import annotations

import copy
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from distillab.config.parallel import ParallelConfig
from distillab.config.student import Quantization
from distillab.errors import ConfigError
from distillab.hub import reach_hub
from distillab.in_memory import IN_MEMORY, ModelInMemory, in_memory
from distillab.library_errors import library_errors
from distillab.models.causal import require_causal
from distillab.models.gguf import gguf_config
from distillab.models.quantised import (
    keep_differentiable,
    quantisation,
    quantising,
    require_loaded_as_stored,
    require_supported,
)
from distillab.models.sharded import distributed_config, divided, reshard
from distillab.models.structure import is_adapted
from distillab.models.weights import adapter_error, error_of, require_weights, weight_files
from distillab.paths import is_gguf, is_local, local_path, require_folder
from distillab.pretrained import config_from, model_from, model_of
from distillab.redaction import revealed

# the files that a model's fingerprint covers
_FINGERPRINTED = ("*.safetensors", "pytorch_model*.bin", "config.json", "adapter_config.json")


def load_model(
    path: str,
    *,
    dtype: str,
    device: torch.device,
    revision: str | None,
    role: str,
    device_map: str | None = None,
    quantization: Quantization | None = None,
    parallel: ParallelConfig | None = None,
) -> PreTrainedModel:
    """Load a causal language model with its pretrained weights, in eval mode.

    Args:
        dtype: "auto" (as config.json states), or float32, bfloat16, float16.
        device: where the model goes, unless `device_map` spreads it.
        quantization: quantise the weights of its linear layers while loading.
        parallel: divide it over the processes while loading; all of them load it at the same time.
        role: "teacher" or "student", for messages.
    Raises:
        TeacherError or ConfigError: the weights are missing or do not fit the configuration, or the model reads ahead.
    """
    if (held := in_memory(path)) is not None:
        if quantization is not None:
            raise error_of(role)(f"The {role} is in memory, and {role}.quantization is for weights that are loaded.")
        ready = _ready(held, dtype=dtype, device=device, role=role)
        return ready if parallel is None else divided(ready, distributed_config(parallel, device, role=role))
    require_weights(path, role=role)
    config = load_config(path, revision=revision, role=role)
    require_supported(config, path=path, role=role)
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    quantised_by = quantising(quantization, config, dtype=dtype, path=path, role=role) if quantization else None
    over = None if parallel is None else distributed_config(parallel, device, role=role)
    with library_errors(error_of(role), f"The {role} cannot be loaded.", where=path):
        model, info = model_from(
            _source(path),
            revision=revision,
            dtype=wanted,
            device_map=device_map if quantised_by is None or device_map else {"": device},
            use_safetensors=_safetensors(path),
            quantization_config=quantised_by,
            distributed_config=over,
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise adapter_error(path, role=role, base=None)
    _require_fitting(model, info, path=path, role=role)
    require_loaded_as_stored(model, quantisation(config), path=path, role=role)
    keep_differentiable(model)
    ready = (model if device_map or quantised_by or over else _moved(model, device)).eval()
    require_causal(ready, role=role, where=path)
    reshard(ready)
    return ready


def _ready(held: ModelInMemory, *, dtype: str, device: torch.device, role: str) -> PreTrainedModel:
    """Return a model in memory: a copy for a student, which will be trained; a teacher itself, on its device."""
    require_supported(held.config, path=IN_MEMORY, role=role, adapted=is_adapted(held.model))
    if role == "teacher" and dtype != "auto":
        raise ConfigError(f"The teacher is in memory, and has its own dtype; teacher.dtype {dtype} would change it.")
    model = cast(PreTrainedModel, held.model)
    if role != "teacher":
        model = _moved(copy.deepcopy(model), device)
        if dtype != "auto" and quantisation(held.config) is None:
            model = cast(PreTrainedModel, model.to(getattr(torch, dtype)))
        keep_differentiable(model)
    require_causal(model.eval(), role=role, where=IN_MEMORY)
    return model


def _require_fitting(model: PreTrainedModel, info: dict[str, Any], *, path: str, role: str) -> None:
    """Check that the files hold every parameter of the model, in its shape, and no other ones."""
    error = error_of(role)
    facts = [f"config.json describes: {_sizes(model.config)}"]
    other = sorted(info.get("mismatched_keys", []))
    if other:
        name, stored, built = other[0]
        raise error(
            f"The {role}'s weight files hold other shapes than its config.json describes.",
            where=path,
            facts=[f"{len(other)} differ, e.g. {name}: {_shape(stored)} in the file, {_shape(built)} expected", *facts],
            fix="use the config.json that was saved with these weights",
        )
    missing = sorted(info.get("missing_keys", []))
    if missing:
        raise error(
            f"The {role}'s weight files lack parameters, which would be left random.",
            where=path,
            facts=[f"{len(missing)} missing, e.g. {', '.join(missing[:3])}", *facts],
            fix="use the folder of a causal language model whose weights are complete",
        )
    left = sorted(info.get("unexpected_keys", []))
    if left:
        raise error(
            f"The {role}'s weight files hold parameters that the model of its config.json has no place for.",
            where=path,
            facts=[f"{len(left)} left over, e.g. {', '.join(left[:3])}", *facts],
            fix="use the config.json that was saved with these weights; where the parameters are of no use (a value "
            "head, …), load the model with AutoModelForCausalLM, save it again, and use that folder",
        )


def _shape(size: Any) -> str:
    return "×".join(map(str, size))


def _sizes(config: PretrainedConfig) -> str:
    text = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    return f"{config.model_type}, " + ", ".join(
        f"{name} {getattr(text, name)}" for name in names if hasattr(text, name)
    )


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    return cast(PreTrainedModel, cast(torch.nn.Module, model).to(device))


def _source(path: str) -> str:
    if not is_local(path):
        reach_hub()
    return str(local_path(path)) if is_local(path) else revealed(path)


def _safetensors(path: str) -> bool | None:
    # A .bin file is loaded with weights_only=True by transformers; safetensors is taken where it exists.
    if is_gguf(path) or not is_local(path):
        return None
    return True if weight_files(local_path(path))[0].suffix == ".safetensors" else None


def random_model(
    path: str,
    *,
    seed: int,
    dtype: str,
    device: torch.device,
    revision: str | None,
    parallel: ParallelConfig | None = None,
) -> PreTrainedModel:
    """Make a causal language model of the shape that config.json describes, with weights drawn from `seed`.

    Args:
        parallel: as for `load_model`; every process draws the whole model, and keeps its part.
    Raises:
        ConfigError: the configuration is of no causal language model, or of one that reads ahead.
    """
    config = load_config(path, revision=revision, role="student")
    require_supported(config, path=path, role="student")
    torch.manual_seed(seed)
    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    with library_errors(ConfigError, "The config.json is not one of a causal language model.", where=path):
        model = _moved(model_of(config, dtype=wanted), device).eval()
    if parallel is not None:
        model = divided(model, distributed_config(parallel, device, role="student"))
    require_causal(model, role="student", where=path)
    reshard(model)
    return model


def load_config(path: str, *, revision: str | None, role: str = "model") -> PretrainedConfig:
    """Load a model's config.json, or the configuration that a GGUF file holds.

    Args:
        role: "teacher" or "student", for messages.
    Raises:
        ConfigError: there is none, or it is not readable.
    """
    if (held := in_memory(path)) is not None:
        return cast(PretrainedConfig, held.config)
    if is_gguf(path):
        return gguf_config(path, role=role)
    if is_local(path) and not (require_folder(path, whose=role) / "config.json").is_file():
        raise ConfigError("The model's folder has no config.json.", where=path)
    with library_errors(ConfigError, "The config.json cannot be used.", where=path):
        return config_from(_source(path), revision=revision)


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations of a block, but compute them again in the backward pass."""
    settings = {"use_reentrant": False}
    # transformers gives the method another name in newer versions, and removes the first one in version 6
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def context_length(config: PretrainedConfig) -> int | None:
    """Return the positions that a model was built for; None if its configuration does not state them."""
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found is not None else None


def pick_device(wanted: str) -> torch.device:
    """Return the device of a setting (auto, cpu, cuda, …) on this machine; auto: one GPU a process."""
    if wanted == "auto":
        gpu = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", gpu) if torch.cuda.is_available() else torch.device("cpu")
    with library_errors(ConfigError, "There is no such device.", where=wanted, fix="write auto, cpu, cuda or cuda:0"):
        device = torch.device(wanted)
    found = torch.cuda.device_count() if device.type == "cuda" else None
    if found is not None and (device.index or 0) >= found:
        raise ConfigError(
            "The device is not in this machine, or torch does not see it.",
            where=f"device: {wanted}",
            facts=[f"GPUs that torch sees: {found}"],
            fix="write device: auto, which takes a GPU where there is one"
            if not found
            else f"write cuda:0 to cuda:{found - 1}",
        )
    return device


def model_name(path: str) -> str:
    """Return a model's name in records: its folder's name; for the student of a run, the run's name."""
    if in_memory(path) is not None:
        return IN_MEMORY
    place = Path(path)
    return place.parent.name if place.name == "student" and place.parent.name else place.name


def weights_sha256(path: str) -> str:
    """Return a hash over the bytes of a folder's weight files and config, in name order, or over a GGUF file.

    A hub id hashes its name.

    A file that has neither another size nor another time of change is not read a second time.
    """
    if (held := in_memory(path)) is not None:
        return cast(str, held.sha256)
    folder = local_path(path)
    if is_gguf(path):
        names = [folder]
    elif not folder.is_dir():
        return hashlib.sha256(path.encode()).hexdigest()
    else:
        names = sorted({file for pattern in _FINGERPRINTED for file in folder.glob(pattern)})
    stats = [(file, file.stat()) for file in names]
    return _files_sha256(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@cache
def _files_sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
