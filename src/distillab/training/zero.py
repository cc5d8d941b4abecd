"""DeepSpeed ZeRO through accelerate: the optimizer's state and gradients (2), and the weights too (3), are divided.

The student's weights are put together again at the end of the training, on every process.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from distillab.config.training import TrainingConfig
from distillab.errors import ConfigError
from distillab.models.sharded import is_sharded
from distillab.models.structure import is_adapted
from distillab.objectives.term import Objective
from distillab.processes import world_size


def zero_settings(stage: int | None) -> dict[str, Any] | None:
    """Return DeepSpeed's settings; "auto": transformers takes them from the other training settings."""
    if stage is None:
        return None
    own = {"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {}
    return {
        "zero_optimization": {"stage": stage, **own},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def require_zero(settings: TrainingConfig, student: torch.nn.Module, objective: Objective, *, writes: bool) -> None:
    """Check that DeepSpeed can train this student; nothing without `training.deepspeed`.

    Args:
        writes: whether the student writes answers during training.
    Raises:
        ConfigError: it cannot.
    """
    stage = settings.deepspeed
    if stage is None:
        return
    where = f"training.deepspeed: {stage}"
    if find_spec("deepspeed") is None:
        raise ConfigError("DeepSpeed is not installed.", where=where, fix='pip install "distillab[deepspeed]"')
    if world_size() == 1:
        raise ConfigError(
            "DeepSpeed ZeRO divides a training over processes, and there is one.",
            where=where,
            fix="start with torchrun --nproc_per_node N -m distillab.cli.main train …, or leave deepspeed out",
        )
    whole = {
        "training.precision is bfloat16": settings.precision == "bfloat16",
        "the student has adapters": is_adapted(student),
        "student.parallel divides the student already": is_sharded(student),
        "the student writes answers during training": writes,
        "a term has parameters that learn": bool(objective.state_terms) and stage == 3,
        "the terms' shares of the gradient are measured": len(objective.terms) > 1
        and settings.gradient_shares_every != 0,
    }
    if any(whole.values()):
        raise ConfigError(
            "This training is not possible with DeepSpeed here.",
            where=where,
            facts=[fact for fact, found in whole.items() if found],
            fix="set student.parallel: {fsdp: N} instead; for the shares, gradient_shares_every: 0",
        )


def require_resumable(checkpoint: Path, settings: TrainingConfig) -> None:
    """Check that a checkpoint was written with the same stage by as many processes; DeepSpeed converts neither.

    Raises:
        ConfigError: it was not.
    """
    parts = len([*checkpoint.glob("global_step*/*_optim_states.pt")])
    divided = [*checkpoint.glob("global_step*/zero_pp_rank_*_model_states.pt")]
    found = (None, 0) if not parts else (3 if divided else 2, parts)
    here = (settings.deepspeed, 0 if settings.deepspeed is None else world_size())
    if found != here:
        shown = [
            "no DeepSpeed" if stage is None else f"training.deepspeed: {stage}, {count} processes"
            for stage, count in (found, here)
        ]
        raise ConfigError(
            "The checkpoint was written with another DeepSpeed stage or number of processes.",
            where=str(checkpoint),
            facts=[f"there: {shown[0]}", f"now: {shown[1]}"],
            fix="resume as it was started, or set another output",
        )


def put_together(trainer: Trainer) -> None:
    """Give a student that ZeRO-3 has divided its whole weights again, on every process. The training has ended."""
    import deepspeed

    engine: Any = trainer.model_wrapped
    student: Any = trainer.model
    divided = list(student.parameters())
    with deepspeed.zero.GatheredParameters(divided):
        whole = {id(p): torch.nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in divided}
    offload = engine.optimizer.parameter_offload
    for hook in (*offload.forward_hooks, *offload.backward_hooks):
        hook.remove()
    engine.destroy()
    for module in student.modules():
        # DeepSpeed's own dictionary gathers a parameter when it is read
        module._parameters = {name: None if p is None else whole[id(p)] for name, p in dict.items(module._parameters)}
