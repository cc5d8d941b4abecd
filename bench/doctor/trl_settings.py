"""Settings that all trainers of TRL share here, and a keeper of what they train on."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

_KEYS = ("input_ids", "labels", "attention_mask", "position_ids")


def plain(config: type, **settings: Any) -> Any:
    """TRL's defaults, on the CPU, a line of log a step, nothing saved."""
    mine: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return config(**{**mine, **settings})


class Kept:
    """The first inputs of a trainer's compute_loss, as it gets them: after collator, sampling and preparation."""

    def __init__(self, trainer: Any, enough: int) -> None:
        self.batches: list[dict[str, Tensor]] = []
        computed = trainer.compute_loss

        def keep(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            if len(self.batches) < enough and model.training:
                self.batches.append(
                    {key: inputs[key].detach().clone() for key in _KEYS if isinstance(inputs.get(key), torch.Tensor)}
                )
            return computed(model, inputs, *rest, **named)

        trainer.compute_loss = keep
