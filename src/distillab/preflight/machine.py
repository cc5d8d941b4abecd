"""What a machine has, and what models take of it before they are loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from distillab.config.parallel import ParallelConfig
from distillab.config.run import RunRecipe
from distillab.config.student import AdapterConfig, Quantization
from distillab.files import free_bytes
from distillab.models.adapters import add_adapter
from distillab.models.loading import load_config, pick_device
from distillab.models.pruning import student_config
from distillab.models.structure import config_shape, head_module
from distillab.pretrained import model_of
from distillab.runs.inputs import RunInputs

_CGROUPS = Path("/sys/fs/cgroup")
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# bytes of a quantised weight: 4 bits and a float32 scale for 64 weights; 8 bits, with a scale for a whole row
_QUANTISED = {"nf4": 0.5 + 4 / 64, "int8": 1.0}

# DeepSpeed's reduce_bucket_size and stage3_max_live_parameters, in float32
_BUCKET_BYTES, _LIVE_BYTES = 4 * 500_000_000, 4 * 1_000_000_000


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
        student: of its weights, with adapters.
        trained: of those that learn.
        teacher: of its weights in one process; 0 where none are loaded.
    """

    student: int
    trained: int
    teacher: int

    @property
    def optimizer(self) -> int:
        """Of AdamW's two moments."""
        return 2 * self.trained

    @property
    def learning(self) -> int:
        """Of the student with its gradients and AdamW's moments."""
        return self.student + self.trained + self.optimizer

    @property
    def checkpoint(self) -> int:
        """Of what learns, with AdamW's moments."""
        return self.trained + self.optimizer


class Parameters(NamedTuple):
    """Numbers of the parameters of a model."""

    all: int  # with adapters
    adapters: int
    linear: int  # of linear layers but the head, without adapters: those that are quantised

    def bytes(self, width: int, quantization: Quantization | None) -> int:
        """Return the bytes of the weights; peft keeps adapters in float32."""
        other = self.all - self.adapters - self.linear
        linear = self.linear * (_QUANTISED[quantization] if quantization else width)
        return 4 * self.adapters + width * other + round(linear)


def this_machine(recipe: RunRecipe) -> Machine:
    """Return the memory and disk space of the recipe's device and output folder."""
    device = pick_device(recipe.training.device)
    memory = int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else this_memory()
    return Machine(memory, free_bytes(Path(recipe.output)))


def this_memory() -> int:
    """Return the memory of the machine, or what its container or Slurm's job may use of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = Path("/proc/self/cgroup")
    return min([memory, *memory_limits(own.read_text(encoding="utf-8"), _CGROUPS)]) if own.is_file() else memory


def memory_limits(groups: str, mounted: Path) -> Iterator[int]:
    """Yield the bytes that the control groups of a process may use, its own and those around it.

    Args:
        groups: as /proc/self/cgroup has them, of version 1 or 2.
        mounted: where they are mounted. A container can see its own group alone, as the outermost.
    """
    for line in groups.splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (mounted / controllers, "memory.limit_in_bytes") if controllers else (mounted, "memory.max")
        folder = root / place.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root) and (group / name).is_file():
                limit = (group / name).read_text(encoding="utf-8").strip()
                if limit != "max":
                    yield int(limit)


def weights_of(inputs: RunInputs, *, teacher: bool) -> Weights:
    """Return the bytes of a run's models.

    Args:
        teacher: whether its weights are loaded, if it has any.
    """
    student, of_teacher = inputs.recipe.student, 0
    for spec in (view.spec for view in inputs.each_view if teacher and view.spec.settings.has_weights):
        config = load_config(spec.config, revision=spec.revision)
        count, width = parameters(config), width_of(spec.settings.dtype, config)
        whole = count.bytes(width, spec.settings.quantization)
        of_teacher += in_one_process(whole, spec.settings.parallel) + gathered_bytes(
            config, whole, spec.settings.parallel, blocks=2
        )
    config = student_config(student)
    count, width = parameters(config, student.adapter), width_of(student.dtype, config)
    whole = count.bytes(width, student.quantization)
    return Weights(whole, whole if student.adapter is None else 4 * count.adapters, of_teacher)


def in_one_process(whole: int, parallel: ParallelConfig | None) -> int:
    """Return the bytes of a model's weights that one process holds; none on a GPU that they are offloaded from."""
    if parallel is None:
        return whole
    return 0 if parallel.offload else -(-whole // parallel.shards)


class Parts(NamedTuple):
    """Bytes of a student in one process: of weights, gradients and AdamW's moments, and what it has whole at once.

    `for_file` is there while a file is written, when activations and logits are not.
    """

    student: int
    gradients: int
    optimizer: int
    gathered: int
    for_file: int = 0


def parts_of(
    weights: Weights,
    config: PreTrainedConfig,
    parallel: ParallelConfig | None,
    zero: tuple[int, int] | None,
    *,
    on_cpu: bool,
) -> Parts:
    """Return what one process holds of a student.

    Args:
        config: of the student.
        zero: the stage of DeepSpeed, and the number of processes. Gradients pass through a bucket of at most 5e8
            numbers, of which stage 3 makes a copy. With stage 3 weights of at most 1e9 stay gathered; with stage 2,
            AdamW changes a copy of its part of the weights.
        on_cpu: the device is the CPU, in whose memory the first process puts a student of stage 3 together for a file.
    """
    if zero is None:
        every = (weights.student, weights.trained, weights.optimizer)
        student, trained, moments = (in_one_process(part, parallel) for part in every)
        return Parts(student, trained, moments, gathered_bytes(config, weights.student, parallel, blocks=3))
    stage, processes = zero
    part, bucket = -(-weights.student // processes), min(weights.student, _BUCKET_BYTES)
    if stage == 2:
        return Parts(weights.student, bucket + part, 3 * part, 0)
    gathered = min(weights.student, _LIVE_BYTES)
    return Parts(part, 2 * bucket + part, 2 * part, gathered, for_file=on_cpu * weights.student)


def gathered_bytes(config: PreTrainedConfig, whole: int, parallel: ParallelConfig | None, *, blocks: int) -> int:
    """Return the bytes that a divided model has whole at once: its head, and under FSDP2 some of its blocks.

    Args:
        whole: bytes of its weights.
        blocks: one computes while the next is gathered; in the backward pass there are the gradients of one.
    """
    if parallel is None:
        return 0
    text = config.get_text_config()
    head = int(text.vocab_size) * int(text.hidden_size)
    ends = head if text.tie_word_embeddings else 2 * head
    count = parameters(config).all
    of_blocks = (count - ends) * blocks / config_shape(config).blocks if parallel.fsdp > 1 else 0
    return round(whole * (head + of_blocks) / count)


def size(count: float) -> str:
    """Return a number of bytes as readable text."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 2**10:,.0f} KiB"


def width_of(dtype: str, config: PreTrainedConfig) -> int:
    """Return the bytes of a weight; `auto`: as the configuration states."""
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    return _WIDTHS.get(dtype, 4)


def unloaded_model(config: PreTrainedConfig, adapter: AdapterConfig | None, *, dtype: str) -> PreTrainedModel:
    """Build a model on the meta device, where tensors have shapes and no memory; with new adapters, if it gets them."""
    with torch.device("meta"):
        model = model_of(config, dtype=None if dtype == "auto" else getattr(torch, dtype))
        return model if adapter is None else add_adapter(model, adapter, seed=0)


def parameters(config: PreTrainedConfig, adapter: AdapterConfig | None = None) -> Parameters:
    """Count the parameters of a model that is not loaded.

    Args:
        adapter: put onto the model, whose own parameters are then frozen.
    """
    return _parameters(type(config).from_dict, config.to_json_string(use_diff=False), adapter)


@cache
def _parameters(
    read: Callable[[dict[str, Any]], PreTrainedConfig], settings: str, adapter: AdapterConfig | None
) -> Parameters:
    model = unloaded_model(read(json.loads(settings)), adapter, dtype="auto")
    head = head_module(model)
    linear = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head and module.weight is not head.weight
    }
    sizes = [(name, parameter.numel()) for name, parameter in model.named_parameters()]
    adapters = sum(size for name, size in sizes if "lora_" in name)
    return Parameters(sum(size for _, size in sizes), adapters, sum(linear.values()) - adapters)
