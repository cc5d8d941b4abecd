"""Quantised weights: quantised while loading, read from a checkpoint that holds them, and made whole again."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, cast

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, TorchAoConfig

from distillab.config.student import Quantization
from distillab.errors import ConfigError
from distillab.models.weights import error_of
from distillab.paths import is_gguf

PACKAGES: dict[Quantization, str] = {"int8": "torchao", "nf4": "bitsandbytes"}
"""The package of each kind. int8: bitsandbytes rounds activations too, in columns that depend on all tokens of the
batch, so an earlier token's logits would depend on later ones; torchao rounds the weights alone."""


def quantising(kind: Quantization, config: PretrainedConfig, *, dtype: str, path: str, role: str) -> Any:
    """Return the settings by which transformers quantises every linear layer but the head while it loads a model.

    Args:
        config: of the model.
        dtype: of the other weights and of the products, as of `load_model`.
    Raises:
        ConfigError: the package is not installed.
        TeacherError (role "teacher") or ConfigError: the weights are quantised already.
    """
    method = "GGUF" if is_gguf(path) else quantisation(config)
    if method is not None:
        raise error_of(role)(
            f"The {role}'s weights are quantised already.",
            where=path,
            facts=[f"its weights: {method}", f"{role}.quantization: {kind}"],
            fix=f"leave {role}.quantization out, or use the original model",
        )
    products = config.dtype or torch.float32 if dtype == "auto" else getattr(torch, dtype)
    package = PACKAGES[kind]
    try:
        logging.disable(logging.WARNING)  # both warn of parts that are not used here
        import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"Quantisation {kind} needs the package {package}, and it is not installed.",
            fix="pip install 'distillab[quantization]'",
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=products)
    return TorchAoConfig(import_module("torchao.quantization").Int8WeightOnlyConfig())


def keep_differentiable(model: torch.nn.Module) -> None:
    """Keep the 4-bit weights of a model as they were loaded.

    On a CPU with AVX512-BF16, bitsandbytes packs them at the first forward pass without gradients. Packed weights pass
    no gradient on, so that most adapters would never learn; and their products are in bfloat16.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False
            module.state_dict()  # unpacks what is packed already


@torch.no_grad()
def dequantise(model: PreTrainedModel, *, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model, in place, with the numbers that its quantised weights stand for, in `dtype`."""
    if quantisation(model.config) == "bitsandbytes":
        return cast(PreTrainedModel, cast(Any, model).dequantize(dtype))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and type(module.weight) is not torch.nn.Parameter:
            module.weight = torch.nn.Parameter(module.weight.dequantize().to(dtype), requires_grad=False)
    cast(Any, model).hf_quantizer.remove_quantization_config(model)
    return model


def quantisation(config: PretrainedConfig) -> str | None:
    """Return the quantisation method that config.json states; None if it states none."""
    stated: Any = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if stated is None:
        return None
    method = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return str(getattr(method, "value", method) or "unnamed")


def require_supported(config: PretrainedConfig, *, path: str, role: str, adapted: bool = False) -> None:
    """Check that a model of this config can be used in this role.

    Args:
        adapted: it has adapters, which learn in place of its weights.
    Raises:
        ConfigError: a student with quantised weights, which have no gradient.
    """
    method = quantisation(config)
    if method is not None and role == "student" and not adapted:
        raise ConfigError(
            "The student's weights are quantised, and quantised weights cannot be trained.",
            where=path,
            facts=[f"quantization_config in config.json: {method}"],
            fix="use the original model in float32, bfloat16 or float16; to train adapters on quantised weights "
            "(QLoRA), write student: {path: ORIGINAL, quantization: nf4, adapter: {kind: lora}}",
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
