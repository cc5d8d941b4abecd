"""Models divided over processes by transformers' `DistributedConfig`: FSDP2, tensor parallelism, or both.

Every forward pass of such a model is an exchange: all processes of its mesh make it together, as often as one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from distillab.config.parallel import ParallelConfig
from distillab.errors import ConfigError
from distillab.models.structure import bare_model
from distillab.processes import world_size

if TYPE_CHECKING:
    from transformers.distributed import DistributedConfig


def require_mesh(settings: ParallelConfig, *, role: str) -> None:
    """Check that the launcher has started as many processes as a model is divided over.

    Raises:
        ConfigError: it has started another number.
    """
    if settings.processes != world_size():
        raise ConfigError(
            f"The {role} is divided over another number of processes than there are.",
            where=f"{role}.parallel: {settings.mesh}",
            facts=[f"needed: {settings.processes} processes", f"started: {world_size()} (WORLD_SIZE)"],
            fix=f"torchrun --standalone --nproc_per_node {settings.processes} -m distillab.cli.main train …; or for "
            f"the whole {role} in each process, where it fits: {role}.parallel=null behind the command",
        )


def distributed_config(settings: ParallelConfig, device: torch.device, *, role: str) -> DistributedConfig:
    """Return what transformers divides a model by, while its weights are loaded.

    Args:
        device: of the run; transformers takes the GPU where there is one.
    Raises:
        ConfigError: this version of transformers cannot, the run is on another device than transformers would take, or
            there is another number of processes.
    """
    require_mesh(settings, role=role)
    if not hasattr(PreTrainedModel, "is_distributed_loading_by_transformers"):
        raise ConfigError(
            f"This version of transformers does not divide a {role} while it is loaded.",
            where=f"{role}.parallel",
            fix="pip install 'transformers>=5.19'",
        )
    from transformers.distributed import DistributedConfig

    if device.type == "cpu" and torch.accelerator.is_available():
        raise ConfigError(
            f"The run is on the CPU, and transformers would divide the {role} over the GPUs.",
            where=f"{role}.parallel, training.device: cpu",
            fix='set training.device: auto; or start with CUDA_VISIBLE_DEVICES=""',
        )
    if settings.offload and device.type == "cpu":
        raise ConfigError(
            "The parts of the weights are in the CPU's memory already.",
            where=f"{role}.parallel.offload, on {device}",
            fix="remove offload; it is for GPUs",
        )
    return DistributedConfig(
        tp_size=settings.tensor,
        fsdp_size=settings.fsdp,
        dp_replicate_size=settings.replicate,
        fsdp_cpu_offload=settings.offload,
    )


def divided(model: PreTrainedModel, config: DistributedConfig) -> PreTrainedModel:
    """Divide, in place, a model that every process has whole; one with weights on disk is divided while loading."""
    made: Any = type(model)
    config, _, mesh = made.prepare_distribute_model(config)
    return cast(PreTrainedModel, made.maybe_distribute_model(model, config, mesh))


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether a model is divided over processes, so that its forward pass is an exchange between them."""
    return bool(getattr(bare_model(model), "is_distributed_loading_by_transformers", False))


def lockstep_group(model: torch.nn.Module) -> dist.ProcessGroup | None:
    """Return the processes that must read the same rows with this model (tensor parallelism); None: there are none."""
    bare = cast(Any, bare_model(model))
    if not is_sharded(model) or bare.config.distributed_config.tp_size == 1:
        return None
    return cast(dist.ProcessGroup, bare._mesh_manager.get_mesh("tp").get_group())


def reshard(model: torch.nn.Module) -> None:
    """Free the weights that FSDP2 keeps gathered after a forward pass: every parameter is this process's part then.

    What changes or lists parameters (an optimizer, adapters, a file) needs the parts.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def gathered(module: torch.nn.Module) -> Iterator[None]:
    """Give the module's parameters whole inside of the block: those that the forward pass computes with."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def keep_gathered(blocks: Iterable[torch.nn.Module], *, keep: bool = True) -> None:
    """Keep the weights of blocks gathered from the forward to the backward pass.

    FSDP2 gathers them again for the backward pass when the gradient comes through the block's output, which that of a
    loss on a tensor inside of the block does not.
    """
    for block in blocks:
        if isinstance(block, FSDPModule):
            block.set_reshard_after_forward(not keep, recurse=False)


@contextmanager
def several_backward_passes(model: torch.nn.Module, blocks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Keep the weights of these blocks gathered, so that several losses of one forward pass can be differentiated."""
    keep_gathered(blocks)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        keep_gathered(blocks, keep=False)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_reshard_after_backward(True, recurse=False)
        reshard(model)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; a tensor that is not divided itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the whole weights in the first process's memory, for a file; empty in others. All processes call it."""
    reshard(model)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    tensors = cast(dict[str, Tensor], get_model_state_dict(model, options=options))
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        same = first.setdefault(id(parameter), name)
        if name in tensors:  # weights of two names are one tensor again
            tensors[name] = tensors[same]
    return tensors


@contextmanager
def described_as_whole(model: torch.nn.Module) -> Iterator[None]:
    """Leave out of the configuration how the model is divided, while a file of its whole weights is written."""
    bare = bare_model(model)
    config: Any = bare.config
    own = vars(config).pop("distributed_config", None)
    try:
        yield
    finally:
        if own is not None:
            config.distributed_config = own
