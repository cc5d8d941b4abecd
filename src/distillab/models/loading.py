"""Loads causal language models, and says plainly what is missing when it cannot."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from distillab.errors import ConfigError, TeacherError
from distillab.hidden import revealed
from distillab.models.causal import require_causal
from distillab.places import is_local, local_path
from distillab.pretrained import config_from, model_from, model_of

_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def require_weights(path: str, *, role: str) -> None:
    """Check before any work that a model folder holds what loading will need.

    Raises:
        TeacherError: (role "teacher") or ConfigError: no such folder, no config.json, no weights.
    """
    if not is_local(path):
        return  # a hub id: only the hub can tell
    folder = local_path(path)
    error = TeacherError if role == "teacher" else ConfigError
    if not folder.is_dir():
        raise error(f"The {role}'s folder does not exist.", where=path)
    files = sorted(file.name for file in folder.iterdir())
    shown = ", ".join(files[:12]) or "nothing"
    if "config.json" not in files:
        raise error(f"The {role}'s folder has no config.json.", where=path, facts=[f"it holds: {shown}"])
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES):
        raise error(
            f"The {role}'s folder has no weights.",
            where=path,
            facts=[f"it holds: {shown}", "needed: model.safetensors, or a sharded model-0000x-of-0000y.safetensors"],
            fix="download the model's weight files too, or point to the folder that has them",
        )


def load_model(
    path: str,
    *,
    dtype: str,
    device: torch.device,
    revision: str | None,
    role: str,
    device_map: str | None = None,
) -> PreTrainedModel:
    """A causal language model with its pretrained weights, in eval mode.

    Args:
        dtype: "auto" (what config.json says), or float32, bfloat16, float16.
        device: where the model goes, unless `device_map` spreads it.
        role: "teacher" or "student", for messages.
    Raises:
        TeacherError or ConfigError: the weights are missing or do not fit the configuration, or the model reads ahead.
    """
    require_weights(path, role=role)
    error = TeacherError if role == "teacher" else ConfigError
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model, info = model_from(
            _source(path),
            revision=revision,
            dtype=wanted,
            device_map=device_map,
            use_safetensors=_safetensors(path),
        )
    except (OSError, ValueError) as problem:
        raise error(f"The {role} cannot be loaded.", where=path, facts=[str(problem).splitlines()[0]]) from problem
    missing = sorted(info.get("missing_keys", []))
    if missing:
        raise error(
            f"The {role}'s weight files lack parameters, which would be left random.",
            where=path,
            facts=[f"{len(missing)} missing, e.g. {', '.join(missing[:3])}"],
            fix="use the folder of a causal language model whose weights are complete",
        )
    ready = (model if device_map else _moved(model, device)).eval()
    require_causal(ready, role=role)
    return ready


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    return cast(PreTrainedModel, cast(torch.nn.Module, model).to(device))


def _source(path: str) -> str:
    return str(local_path(path)) if is_local(path) else revealed(path)


def _safetensors(path: str) -> bool | None:
    # A .bin file is loaded with weights_only=True by transformers; safetensors is taken where it exists.
    return True if is_local(path) and any(local_path(path).glob("*.safetensors")) else None


def random_model(path: str, *, seed: int, dtype: str, device: torch.device, revision: str | None) -> PreTrainedModel:
    """A causal language model of the shape that config.json describes, with weights drawn from `seed`.

    Raises:
        ConfigError: the configuration is of no causal language model, or of one that reads ahead.
    """
    config = load_config(path, revision=revision)
    torch.manual_seed(seed)
    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    try:
        model = _moved(model_of(config, dtype=wanted), device).eval()
    except ValueError as problem:
        raise ConfigError(
            "The config.json is not one of a causal language model.",
            where=path,
            facts=[f"model_type: {config.model_type}", str(problem).splitlines()[0][:300]],
        ) from problem
    require_causal(model, role="student")
    return model


def load_config(path: str, *, revision: str | None) -> PretrainedConfig:
    """A model's config.json.

    Raises:
        ConfigError: there is none, or it is not readable.
    """
    if is_local(path) and not (local_path(path) / "config.json").is_file():
        raise ConfigError("The model's folder has no config.json.", where=path)
    try:
        return config_from(_source(path), revision=revision)
    except (OSError, ValueError) as problem:
        raise ConfigError("The config.json cannot be used.", where=path, facts=[str(problem)[:300]]) from problem


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations of a block, but compute them again in the backward pass."""
    settings = {"use_reentrant": False}
    # transformers gives the method another name in newer versions, and removes the first one in version 6
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def context_length(config: PretrainedConfig) -> int | None:
    """Positions that a model was built for; None where its configuration does not say."""
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found is not None else None


def pick_device(wanted: str) -> torch.device:
    """The device that a setting of auto, cpu, cuda, … means on this machine; auto: a GPU of its own a process."""
    if wanted == "auto":
        gpu = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", gpu) if torch.cuda.is_available() else torch.device("cpu")
    return torch.device(wanted)


def model_name(path: str) -> str:
    """What a model is called in records: its folder's name; for the student of a run, the run's name."""
    place = Path(path)
    return place.parent.name if place.name == "student" and place.parent.name else place.name


def weights_sha256(path: str) -> str:
    """Hash over the bytes of a folder's weight files and config, in name order; a hub id hashes its name.

    A file that has neither another size nor another time of change is not read a second time.
    """
    folder = local_path(path)
    if not folder.is_dir():
        return hashlib.sha256(path.encode()).hexdigest()
    names = sorted({file for pattern in (*_WEIGHT_FILES, "config.json") for file in folder.glob(pattern)})
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
