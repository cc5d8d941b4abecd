"""Load the student of a run before its training."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.adapters import add_adapter
from distillab.models.loading import load_model, random_model
from distillab.models.sharded import distributed_config, divided, is_sharded
from distillab.models.structure import is_adapted
from distillab.runs.inputs import RunInputs
from distillab.runs.pruned import made_student


def load_student(inputs: RunInputs) -> PreTrainedModel:
    """Load the student before training: its weights, those kept of the teacher, or random ones; maybe adapted.

    Random weights, and new adapters on others, are drawn from the run's seed.

    Raises:
        ConfigError: the adapters do not fit the model, or there are none and they are to be saved.
    """
    settings, seed = inputs.recipe.student, inputs.recipe.seed
    dtype, device, revision, parallel = settings.dtype, inputs.device, settings.revision, settings.parallel
    torch.manual_seed(seed)
    if inputs.starts_from is not None:
        model = load_model(
            str(inputs.starts_from), dtype=dtype, device=device, revision=None, role="student", parallel=parallel
        )
    elif settings.init == "random":
        return random_model(settings.path, seed=seed, dtype=dtype, device=device, revision=revision, parallel=parallel)
    elif settings.from_teacher is not None:
        model = made_student(inputs)
        if parallel is not None and not is_sharded(model):
            model = divided(model, distributed_config(parallel, device, role="student"))
    else:
        model = load_model(
            settings.path,
            dtype=dtype,
            device=device,
            revision=revision,
            role="student",
            quantization=settings.quantization,
            parallel=parallel,
        )
    if settings.adapter is not None:
        return add_adapter(model, settings.adapter, seed=seed, revision=revision)
    if settings.save_as == "adapter" and not is_adapted(model):
        raise ConfigError(
            "The student has no adapters that could be saved.",
            where="student.save_as: adapter",
            fix="give a peft model, or set student.adapter",
        )
    return model
