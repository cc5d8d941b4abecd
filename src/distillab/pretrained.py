"""The one place at which a config, a tokenizer, a model or a data set is loaded.

A folder or a hub's repository may bring Python of its own (`auto_map`). transformers would ask on the terminal whether
to run it, and `yes |` answers. Here it is never run, and nobody is asked. Data sets need no such word: `datasets`
has run no script since version 4.

What the libraries raise is left as it is here; `library_errors` makes one error of it where a caller knows the role.
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
    """A model's configuration.

    Raises: whatever transformers does; call it inside of `library_errors`.
    """
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    config.name_or_path = redacted(source)  # it is saved with what is made of it
    return config


def tokenizer_from(source: str, *, revision: str | None, rebuild: bool) -> Any:
    """A tokenizer, of whatever class transformers makes of it.

    Args:
        rebuild: as its settings say; else read from tokenizer.json alone.
    Raises: whatever transformers does; call it inside of `library_errors`.
    """
    kind: Any = AutoTokenizer if rebuild else PreTrainedTokenizerFast
    tokenizer = kind.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    tokenizer.name_or_path = redacted(source)
    return tokenizer


def model_from(
    source: str, *, revision: str | None, dtype: str | torch.dtype, device_map: str | None, use_safetensors: bool | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A causal language model with its weights, and what transformers says of them (missing keys, …).

    A parameter whose shape in the files differs from the model's is left random and told under mismatched_keys.

    Raises: whatever transformers does; call it inside of `library_errors`.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        output_loading_info=True,
        use_safetensors=use_safetensors,
        ignore_mismatched_sizes=True,  # so that all of them are told, with their shapes
        trust_remote_code=False,
    )
    model, info = loaded
    model.config.name_or_path = redacted(source)
    return model, info


def model_of(config: PretrainedConfig, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A causal language model of a shape, with weights drawn from torch's generator."""
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def hub_rows(path: str, *, split: str) -> Dataset:
    """A split of a hub's data set.

    Raises: whatever `datasets` does; call it inside of `library_errors`.
    """
    from datasets import load_dataset

    return load_dataset(path, split=split)
