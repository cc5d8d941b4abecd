"""Check whether a checkpoint with quantised weights can be used as teacher or student."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.weights import error_of


def quantisation(config: PretrainedConfig) -> str | None:
    """Return the quantisation method that config.json states; None if it states none."""
    stated: Any = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if stated is None:
        return None
    method = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return str(getattr(method, "value", method) or "unnamed")


def require_supported(config: PretrainedConfig, *, path: str, role: str) -> None:
    """Check that a model of this config can be used in this role.

    Raises:
        ConfigError: a student with quantised weights, which have no gradient.
    """
    method = quantisation(config)
    if method is not None and role == "student":
        raise ConfigError(
            "The student's weights are quantised, and quantised weights cannot be trained.",
            where=path,
            facts=[f"quantization_config in config.json: {method}"],
            fix="use the original model, in float32, bfloat16 or float16",
        )


def require_loaded_as_stored(model: PreTrainedModel, method: str | None, *, path: str, role: str) -> None:
    """Check that quantised weights were loaded as such: transformers ignores methods that it does not know.

    Raises:
        TeacherError (role "teacher") or ConfigError: it was not.
    """
    if method is None or getattr(model, "hf_quantizer", None) is not None:
        return
    raise error_of(role)(
        f"config.json states that the {role}'s weights are quantised, but transformers loaded them as plain weights.",
        where=path,
        facts=[f"quantization_config: {method}", "transformers knows no such method, or no device for it is here"],
        fix="use the original model; or remove quantization_config where the weights are not quantised",
    )
