"""What a machine has, and what models take of it before they are loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from distillab.config.models import RunRecipe
from distillab.files import free_bytes
from distillab.models.loading import load_config, pick_device
from distillab.models.pruning import student_config
from distillab.pretrained import model_of
from distillab.runs.inputs import RunInputs

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_COPIES = 4  # of a weight that learns: itself, its gradient, AdamW's two moments


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        memory_bytes: of the recipe's device: of its GPU, else of the machine or its container.
        disk_bytes: free where the recipe's output goes.
    """

    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Weights:
    """Bytes of the models of one run, from their configurations alone.

    Attributes:
        student: of its weights.
        teacher: of its weights; 0 where none are loaded.
    """

    student: int
    teacher: int

    @property
    def learning(self) -> int:
        """Of the student with its gradients and AdamW's moments."""
        return _COPIES * self.student

    @property
    def checkpoint(self) -> int:
        """Of the student with AdamW's moments."""
        return 3 * self.student


def this_machine(recipe: RunRecipe) -> Machine:
    """Return the memory and disk space of the recipe's device and output folder."""
    device = pick_device(recipe.training.device)
    if device.type == "cuda":
        memory = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = _LIMIT.read_text(encoding="utf-8").strip() if _LIMIT.is_file() else "max"
        memory = min(memory, int(limit)) if limit != "max" else memory
    return Machine(memory, free_bytes(Path(recipe.output)))


def weights_of(inputs: RunInputs, *, teacher: bool) -> Weights:
    """Return the bytes of a run's models.

    Args:
        teacher: whether its weights are loaded.
    """
    student, of_teacher = inputs.recipe.student, 0
    if teacher and inputs.teacher is not None:
        spec = inputs.teacher.spec
        of_teacher = _bytes(load_config(spec.config, revision=spec.revision), spec.settings.dtype)
    return Weights(_bytes(student_config(student), student.dtype), of_teacher)


def size(count: float) -> str:
    """Return a number of bytes as readable text."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 2**10:,.0f} KiB"


def _bytes(config: PreTrainedConfig, dtype: str) -> int:
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    return _parameters(type(config).from_dict, config.to_json_string(use_diff=False)) * _WIDTHS.get(dtype, 4)


@cache
def _parameters(read: Callable[[dict[str, Any]], PreTrainedConfig], settings: str) -> int:
    """Return the number of parameters of a model."""
    with torch.device("meta"):
        model = model_of(read(json.loads(settings)))
    return sum(p.numel() for p in model.parameters())
