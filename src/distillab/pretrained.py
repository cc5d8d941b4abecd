"""The one place at which a config, a tokenizer, a model or a data set is loaded.

A folder or a hub's repository may bring Python of its own (`auto_map`). transformers would ask on the terminal whether
to run it, and `yes |` answers. Here it is never run, and nobody is asked. Data sets need no such word: `datasets`
has run no script since version 4.
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

from distillab.errors import ConfigError
from distillab.hidden import redacted

if TYPE_CHECKING:
    from datasets import Dataset


def config_from(source: str, *, revision: str | None) -> PretrainedConfig:
    """A model's configuration.

    Raises:
        ConfigError: it needs code of its own.
        OSError, ValueError: as transformers raises them.
    """
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except ValueError as problem:
        raise _refused(problem, source) from problem
    config.name_or_path = redacted(source)  # it is saved with what is made of it
    return config


def tokenizer_from(source: str, *, revision: str | None, rebuild: bool) -> Any:
    """A tokenizer, of whatever class transformers makes of it.

    Args:
        rebuild: as its settings say; else read from tokenizer.json alone.
    Raises:
        ConfigError: it needs code of its own.
        OSError, ValueError, ImportError, KeyError, TypeError, AttributeError: as transformers raises them.
    """
    kind: Any = AutoTokenizer if rebuild else PreTrainedTokenizerFast
    try:
        tokenizer = kind.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except ValueError as problem:
        raise _refused(problem, source) from problem
    tokenizer.name_or_path = redacted(source)
    return tokenizer


def model_from(
    source: str, *, revision: str | None, dtype: str | torch.dtype, device_map: str | None, use_safetensors: bool | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A causal language model with its weights, and what transformers says of them (missing keys, …).

    Raises:
        ConfigError: it needs code of its own.
        OSError, ValueError: as transformers raises them.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            device_map=device_map,
            revision=revision,
            output_loading_info=True,
            use_safetensors=use_safetensors,
            trust_remote_code=False,
        )
    except ValueError as problem:
        raise _refused(problem, source) from problem
    model, info = loaded
    model.config.name_or_path = redacted(source)
    return model, info


def model_of(config: PretrainedConfig, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A causal language model of a shape, with weights drawn from torch's generator."""
    try:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as problem:
        raise _refused(problem, str(config.name_or_path)) from problem


def hub_rows(path: str, *, split: str) -> Dataset:
    """A split of a hub's data set.

    Raises:
        OSError, ValueError, DatasetsError, HfHubHTTPError: as `datasets` raises them.
    """
    from datasets import load_dataset

    return load_dataset(path, split=split)


def _refused(problem: ValueError, source: str) -> Exception:
    """The error in plain words where code was refused, else the problem itself."""
    if "trust_remote_code" not in str(problem):
        return problem
    return ConfigError(
        "It needs Python code that its folder brings, and distillab runs none but its own.",
        where=source,
        facts=[
            "auto_map in config.json or tokenizer_config.json names code, and transformers knows no class of its own"
        ],
        fix="use a model whose model_type transformers supports; or convert it where you trust the code, and use that",
    )
