"""Name models and rows of a Python session, so that a recipe can refer to them like to paths: `memory:teacher`.

Code that reads a path calls `in_memory` first, so that recipes, runs and studies need no second form for objects. A
name is valid inside of the `with holding(...)` block, in this process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from distillab.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

IN_MEMORY = "in memory"
"""The name in records and messages of an object without a path."""
_PREFIX = "memory:"
_objects: ContextVar[Mapping[str, Any]] = ContextVar("objects", default=MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class ModelInMemory:
    """A model as it is now, with its tokenizer.

    Attributes:
        model: a transformers model, or PEFT's around one.
        config: of the transformers model.
        tokenizer: as `pairing.loading.LoadedTokenizer`.
    """

    model: torch.nn.Module
    config: PretrainedConfig
    tokenizer: Any

    @cached_property
    def sha256(self) -> str:
        """Over the configuration and every tensor: name, dtype, shape, bytes."""
        import torch

        settings = {name: value for name, value in self.config.to_dict().items() if name != "_name_or_path"}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@contextmanager
def holding(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let `memory:NAME` stand for an object, for each name, inside of the block."""
    token = _objects.set({**_objects.get(), **{_PREFIX + name: value for name, value in objects.items()}})
    try:
        yield
    finally:
        _objects.reset(token)


def path_of(name: str) -> str:
    """Return what a recipe writes for the object of that name."""
    return _PREFIX + name


def in_memory(path: str) -> Any:
    """Return the object that a path names; None if it is a path of the disk or of the hub.

    Raises:
        ConfigError: the object is not held in this process.
    """
    if not path.startswith(_PREFIX) or path.startswith(f"{_PREFIX}//"):  # memory:// is a store of fsspec
        return None
    if path not in _objects.get():
        raise ConfigError(
            "The recipe names an object in the memory of a Python session, and it is not in this process.",
            where=path,
            fix="run it again from that session (with workers=1); or save the model or the rows, and give their path",
        )
    return _objects.get()[path]
