"""Convert the user's objects to checked tokenizers and to rows with keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distillab.config.data import SourceConfig
from distillab.data.sources import Row, given_rows, read_rows
from distillab.errors import ConfigError
from distillab.in_memory import IN_MEMORY
from distillab.models.structure import bare_model
from distillab.pairing.loading import LoadedTokenizer, checked_tokenizer, load_tokenizer, logits_width

PathLike = str | os.PathLike[str]
Tokenizer = PreTrainedTokenizerBase
Model = PathLike | torch.nn.Module | tuple[torch.nn.Module, Tokenizer]
"""A folder, hub id or GGUF file; a transformers or PEFT model; or (model, tokenizer)."""
Teacher = Model | Mapping[str, Model]
"""One teacher, or several by their names."""
Rows = PathLike | Sequence[Mapping[str, Any]] | Any
"""A file, saved folder or hub id; a `datasets.Dataset`; a `pandas.DataFrame`; or a list of dicts."""


class Given(NamedTuple):
    """The model and tokenizer that were passed for teacher or student."""

    path: str | None
    model: torch.nn.Module | None
    tokenizer: PreTrainedTokenizerFast | None

    @property
    def bare(self) -> PreTrainedModel | None:
        """The transformers model inside of a PEFT model."""
        return None if self.model is None else bare_model(self.model)


def given(value: object, *, role: str) -> Given:
    """Separate the model and tokenizer that were passed for teacher or student.

    Raises:
        ConfigError: it is no path, model, tokenizer or (model, tokenizer).
    """
    model, tokenizer = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if isinstance(model, PreTrainedTokenizerBase) and tokenizer is None:
        model, tokenizer = None, model
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _wrong(tokenizer, f"{role}'s tokenizer", "load it with AutoTokenizer; a fast tokenizer is needed")
    if isinstance(model, str | os.PathLike):
        return Given(os.fspath(model), None, tokenizer)
    if model is not None and not isinstance(model, torch.nn.Module):
        raise _wrong(model, role, "give a folder, a hub id, a transformers or PEFT model, or (model, tokenizer)")
    found = Given(None, model, tokenizer)
    if found.model is not None:
        bare_model(found.model)  # raises where there is none
    return found


def tokenizer_of(found: Given, *, role: str) -> LoadedTokenizer:
    """Return the tokenizer that belongs to a model or a path, checked against its files.

    For a model without a tokenizer, it is read from the folder or hub id that the model was loaded from.

    Raises:
        ConfigError: there is none.
        TokenizerMismatch: it gives other ids than the tokenizer.json that it was loaded from.
    """
    if found.tokenizer is not None:
        return checked_tokenizer(found.tokenizer)
    path = found.path or (found.bare.name_or_path if found.bare is not None else "")
    if not path:
        raise ConfigError(
            f"The {role} is a model without a tokenizer.",
            facts=["the model was made in memory, and names no folder that its tokenizer could be read from"],
            fix=f"give {role}=(model, tokenizer)",
        )
    return load_tokenizer(path)


def width_of(found: Given) -> int | None:
    """Return the rows of the model's output layer; None if only a tokenizer was passed."""
    if found.bare is not None:
        return int(found.bare.config.get_text_config().vocab_size)
    return None if found.path is None else logits_width(found.path)


def rows_of(data: Rows, *, name: str) -> tuple[list[Row], str]:
    """Return the rows that were passed, and their name in messages and records.

    Raises:
        DataError: a source that cannot be read; an object of another kind; no rows.
    """
    if isinstance(data, str | os.PathLike):
        return read_rows(SourceConfig(path=os.fspath(data))), Path(data).name
    return given_rows(data, name=f"{name}, {IN_MEMORY}"), f"{name}, {IN_MEMORY}"


def _wrong(value: object, what: str, fix: str) -> ConfigError:
    kind = type(value)
    return ConfigError(
        f"The {what} is an object of another kind.", facts=[f"given: {kind.__module__}.{kind.__qualname__}"], fix=fix
    )
