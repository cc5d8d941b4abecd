"""What a GGUF file holds of a model beside its weights: the configuration, and how the weights are quantised."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from distillab.errors import ConfigError
from distillab.gguf_header import GgufHeader, read_header
from distillab.library_errors import library_errors
from distillab.models.weights import error_of
from distillab.paths import is_gguf, local_path
from distillab.pretrained import config_from

_ORIGINAL = "use the folder or hub id of the original model, with config.json and model.safetensors"


def quantization_of(path: str, loaded_as: str | None) -> str | None:
    """Return how weights are quantised: while they are loaded, or in a GGUF file; None where they are not.

    Args:
        loaded_as: the recipe's setting.
    """
    if loaded_as is not None or not is_gguf(path):
        return loaded_as
    return read_header(local_path(path), error=ConfigError).quantization


def gguf_config(path: str, *, role: str) -> PretrainedConfig:
    """Load the configuration that a GGUF file holds.

    Args:
        role: "teacher" or "student", for messages.
    Raises:
        TeacherError (role "teacher") or ConfigError: it is no GGUF file, or damaged; ConfigError: transformers does not
            read its architecture, or not all of its configuration.
    """
    header = read_header(local_path(path), error=error_of(role))
    with library_errors(ConfigError, "transformers cannot read this GGUF file.", where=path, fix=_ORIGINAL):
        config = config_from(path, revision=None)
    _require_same_positions(header, config, path=path)
    return config


def _require_same_positions(header: GgufHeader, config: PretrainedConfig, *, path: str) -> None:
    """Refuse scaled rotary positions (as in Llama 3.1) that transformers has passed over."""
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    scaled = [tensor.name for tensor in header.tensors if tensor.name.startswith("rope_")]
    scaled += [f"rope.scaling.type {kind}"] if kind != "none" else []
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if scaled and rope.get("rope_type", "default") == "default":
        raise ConfigError(
            "The GGUF file scales the rotary positions, and transformers does not read that from a GGUF file.",
            where=path,
            facts=[f"in the file: {', '.join(scaled)}", "without it, every logit would be another one"],
            fix=_ORIGINAL,
        )
