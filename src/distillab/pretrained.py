"""Load configs, tokenizers, models and data sets with transformers and datasets; no other file calls their loaders.

A folder or a hub repository can bring its own Python code (`auto_map`). transformers would prompt on the terminal
whether to run it; here it is never run, and nothing prompts. `datasets` runs no scripts since version 4.

Errors of the libraries pass through; callers wrap these functions in `library_errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distillab.redaction import redacted

if TYPE_CHECKING:
    from datasets import Dataset


def config_from(source: str, *, revision: str | None) -> PretrainedConfig:
    """Load a model's configuration.

    Raises: what transformers raises; call it inside `library_errors`.
    """
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    config.name_or_path = redacted(source)  # it is saved with the model
    return config


def tokenizer_from(source: str, *, revision: str | None, rebuild: bool) -> Any:
    """Load a tokenizer.

    Args:
        rebuild: let AutoTokenizer build it from its settings; False: read tokenizer.json only.
    Raises: what transformers raises; call it inside `library_errors`.
    """
    kind: Any = AutoTokenizer if rebuild else PreTrainedTokenizerFast
    tokenizer = kind.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    tokenizer.name_or_path = redacted(source)
    return tokenizer


def model_from(
    source: str, *, revision: str | None, dtype: str | torch.dtype, device_map: str | None, use_safetensors: bool | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a causal language model, with transformers' loading info (missing keys, …).

    A parameter whose shape in the files differs from the model's stays random and is listed under mismatched_keys.

    Raises: what transformers raises; call it inside `library_errors`.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        output_loading_info=True,
        use_safetensors=use_safetensors,
        ignore_mismatched_sizes=True,  # so that all of them are listed, with their shapes
        trust_remote_code=False,
    )
    model, info = loaded
    model.config.name_or_path = redacted(source)
    return model, info


def model_of(config: PretrainedConfig, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build a randomly initialised causal language model; weights come from torch's generator."""
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def hub_rows(path: str, *, split: str) -> Dataset:
    """Load a split of a data set from the hub.

    Raises: what `datasets` raises; call it inside `library_errors`.
    """
    from datasets import load_dataset

    return load_dataset(path, split=split)
