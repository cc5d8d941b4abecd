"""Write and read weights, optimizer and schedule of a checkpoint, each process its part (torch.distributed.checkpoint).

state/shard-NNNNN-model-….safetensors   tensors by name: `model.NAME`, `optimizer.NAME.MOMENT`
state.json                              the schedule, and what the optimizer keeps that is no tensor

Parts are put together and cut anew while they are read, so a run resumes on any number of processes, divided or not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from distillab.errors import ConfigError
from distillab.files import read_json, write_json
from distillab.models.sharded import reshard
from distillab.models.structure import is_adapted

STATE = "state"
OTHERS = "state.json"
_FILE_BYTES = 128 << 20  # of each file torch holds two copies while it writes it
_OF_A_SCHEDULE = ("last_epoch", "_step_count")


def write_state(
    folder: Path, model: torch.nn.Module, optimizer: Optimizer, schedule: LRScheduler, *, first: bool
) -> None:
    """Write the state into a checkpoint; all processes call it.

    Args:
        model: the student, not wrapped; of one with adapters, what learns.
        first: whether this is the first process.
    Raises:
        ConfigError: the schedule is no function of the step.
    """
    tensors: dict[str, Tensor] = {f"model.{name}": tensor.detach() for name, tensor in _kept(model).items()}
    others: dict[str, dict[str, Any]] = {}
    for name, parameter in _learning(model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                others.setdefault(name, {})[key] = value
    writer = HuggingFaceStorageWriter(str(folder / STATE), _files(tensors), save_distributed=True)
    with _alone_or_together():
        save(cast(dict[str, Any], tensors), storage_writer=writer, no_dist=not dist.is_initialized())
    if first:
        states = _by_step(schedule).state_dict()
        write_json(folder / OTHERS, {"schedule": {k: states[k] for k in _OF_A_SCHEDULE}, "optimizer": others})


def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Read the weights of `write_state` into a model, in place; all processes call it."""
    _read(folder, {f"model.{name}": tensor.detach() for name, tensor in _kept(model).items()})


def read_optimizer(folder: Path, model: torch.nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> None:
    """Read the rest of `write_state`; all processes call it.

    Raises:
        ConfigError: the schedule is no function of the step.
    """
    others, parameters = read_json(folder / OTHERS), _learning(model)
    found: dict[str, Tensor] = {}
    for name, size in _sizes(folder).items():
        if name.startswith("optimizer."):
            of, key = name.removeprefix("optimizer.").rsplit(".", 1)
            parameter = parameters[of]
            like = parameter.detach() if parameter.shape == size.size else torch.empty(size.size)
            found[name] = torch.zeros_like(like, dtype=size.properties.dtype)
            optimizer.state[parameter][key] = found[name]
    _read(folder, found)
    for name, values in others["optimizer"].items():
        optimizer.state[parameters[name]].update(values)
    by_step = _by_step(schedule)
    # the rates follow from the step; parameters can be in other groups than in the run that wrote it
    by_step.load_state_dict(by_step.state_dict() | others["schedule"])
    by_step._last_lr = [
        base * factor(by_step.last_epoch) for base, factor in zip(by_step.base_lrs, by_step.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, by_step._last_lr, strict=True):
        group["lr"] = rate


def _kept(model: torch.nn.Module) -> dict[str, Tensor]:
    reshard(model)
    if is_adapted(model):
        return dict(_learning(model))
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {**dict(model.named_parameters()), **buffers}


def _learning(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    reshard(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the file that each tensor is in."""
    numbers, before = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + before // _FILE_BYTES
        before += tensor.numel() * tensor.element_size()
    return numbers


def _read(folder: Path, tensors: dict[str, Tensor]) -> None:
    with _alone_or_together():
        load(
            cast(dict[str, Any], tensors),
            storage_reader=HuggingFaceStorageReader(str(folder / STATE)),
            no_dist=not dist.is_initialized(),
        )


def _sizes(folder: Path) -> dict[str, TensorStorageMetadata]:
    metadata = HuggingFaceStorageReader(str(folder / STATE)).read_metadata()
    return cast(dict[str, TensorStorageMetadata], metadata.state_dict_metadata)


def _by_step(schedule: LRScheduler) -> LambdaLR:
    if not isinstance(schedule, LambdaLR):
        raise ConfigError(
            "A checkpoint of this trainer needs a schedule that is a function of the step.",
            facts=[f"given: {type(schedule).__name__}"],
            fix="choose linear, cosine or constant_with_warmup; or save no checkpoints",
        )
    return schedule


@contextmanager
def _alone_or_together() -> Iterator[None]:
    with warnings.catch_warnings():
        # one process is meant where there is no process group
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            yield
        except CheckpointException as error:  # a BaseException that holds those of all processes
            raise next(iter(error.failures.values()))[0] from error
