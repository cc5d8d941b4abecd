"""Load configs, tokenizers, models and data sets with transformers and datasets; no other file calls their loaders.

A model's source is a folder, a hub id, or a GGUF file. Of a GGUF file nothing beside it is read.

A folder or a hub repository can bring its own Python code (`auto_map`). transformers would prompt on the terminal
whether to run it; here it is never run, and nothing prompts. `datasets` runs no scripts since version 4.

Errors of the libraries pass through; callers wrap these functions in `library_errors`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging

from distillab.paths import is_gguf, local_path
from distillab.redaction import redacted

if TYPE_CHECKING:
    from datasets import Dataset


def config_from(source: str, *, revision: str | None) -> PretrainedConfig:
    """Load a model's configuration.

    Raises: what transformers raises; call it inside `library_errors`.
    """
    if is_gguf(source):
        file = local_path(source)
        config = copy.deepcopy(_gguf_config(source, file.stat().st_size, file.stat().st_mtime_ns))
    else:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    config.name_or_path = redacted(source)  # it is saved with the model
    return config


def tokenizer_from(source: str, *, revision: str | None, rebuild: bool) -> Any:
    """Load a tokenizer.

    Args:
        rebuild: let AutoTokenizer build it from its settings; False: read tokenizer.json, or the GGUF file, only.
    Raises: what transformers raises; call it inside `library_errors`.
    """
    kind: Any = AutoTokenizer if rebuild else PreTrainedTokenizerFast
    with _located(source) as place:
        tokenizer = kind.from_pretrained(**place, revision=revision or "main", trust_remote_code=False)
    tokenizer.name_or_path = redacted(source)
    return tokenizer


def model_from(
    source: str,
    *,
    revision: str | None,
    dtype: str | torch.dtype,
    device_map: str | dict[str, torch.device] | None,
    use_safetensors: bool | None,
    quantization_config: Any = None,
    distributed_config: Any = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a causal language model, with transformers' loading info (missing keys, …).

    A parameter whose shape in the files differs from the model's stays random and is listed under mismatched_keys.

    Args:
        quantization_config: by which weights are quantised; not for a GGUF file.
        distributed_config: by which they are divided over processes.
    Raises: what transformers raises; call it inside `library_errors`.
    """
    settings = _gguf_settings(source) if is_gguf(source) else {}
    if quantization_config is not None:  # None would pass over what config.json states
        settings["quantization_config"] = quantization_config
    if distributed_config is not None:
        settings["distributed_config"] = distributed_config
    with _located(source) as place:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **place,
            **settings,
            dtype=dtype,
            device_map=device_map,
            revision=revision,
            output_loading_info=True,
            use_safetensors=use_safetensors,
            ignore_mismatched_sizes=True,  # so that all of them are listed, with their shapes
            trust_remote_code=False,
        )
    model, info = loaded
    model.name_or_path = model.config.name_or_path = redacted(source)
    return model, info


@contextmanager
def _located(source: str) -> Iterator[dict[str, str]]:
    """Give the arguments by which transformers finds a model; a GGUF file is alone in a folder.

    transformers would take tokenizer.json and adapter_config.json beside a GGUF file before what is in it.
    """
    if not is_gguf(source):
        yield {"pretrained_model_name_or_path": source}
        return
    file = local_path(source).resolve()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file.name).symlink_to(file)
        yield {"pretrained_model_name_or_path": folder, "gguf_file": file.name}


@cache
def _gguf_config(source: str, size: int, changed_ns: int) -> PretrainedConfig:
    # transformers reads the whole vocabulary for it, which takes seconds
    with _located(source) as place:
        return AutoConfig.from_pretrained(**place, trust_remote_code=False)


def _gguf_settings(source: str) -> dict[str, Any]:
    """Let every weight be dequantised: transformers 5.23 would keep some packed on a GPU, where they cannot learn.

    Its progress bar then follows transformers' setting, as that of every other file does.
    """
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm
    packed = getattr(transformers, "GgufConfig", None)
    settings = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    return {"config": config_from(source, revision=None), **settings}


def model_of(config: PretrainedConfig, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build a randomly initialised causal language model; weights come from torch's generator."""
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def hub_rows(path: str, *, split: str) -> Dataset:
    """Load a split of a data set from the hub.

    Raises: what `datasets` raises; call it inside `library_errors`.
    """
    from datasets import load_dataset

    return load_dataset(path, split=split)
