"""Convert a recipe's training settings to transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from distillab.config.training import TrainingConfig
from distillab.errors import ConfigError
from distillab.processes import world_size
from distillab.training.zero import zero_settings

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def training_arguments(
    settings: TrainingConfig, *, folder: Path, seed: int, name: str | None = None
) -> TrainingArguments:
    """Build the arguments of one run.

    Args:
        name: of the run in trackers; default: transformers' own.
    Raises:
        ConfigError: batch_size is no multiple of microbatch_size × processes, or one process would see
            several GPUs (transformers would then split batches by DataParallel and lose our counts).
    """
    processes = world_size()
    if settings.device == "auto" and processes == 1 and torch.cuda.device_count() > 1:
        raise ConfigError(
            "One process sees several GPUs.",
            facts=[f"visible GPUs: {torch.cuda.device_count()}"],
            fix="start with torchrun --nproc_per_node N, or set CUDA_VISIBLE_DEVICES to one",
        )
    microbatch = microbatch_size(settings, processes)
    checkpoint_every = settings.checkpoint_every or max(1, settings.steps // 4)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=settings.batch_size // (microbatch * processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bfloat16",
        use_cpu=settings.device == "cpu",
        seed=seed,
        data_seed=seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=checkpoint_every,
        save_total_limit=None,  # `checkpoints.seal` removes older ones: transformers sorts by file times
        eval_strategy="no",
        report_to="none",  # `trackers` sends our figures
        run_name=name,
        project="distillab",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available() and settings.device == "auto",
        ddp_find_unused_parameters=False,
        deepspeed=zero_settings(settings.deepspeed),
    )


def evaluation_interval(settings: TrainingConfig) -> int:
    """Return the steps between two points of the learning curve."""
    return settings.evaluate_every or max(1, settings.steps // 10)


def curve_points(settings: TrainingConfig) -> int:
    """Return about how many points the learning curve has, the untrained student's too."""
    return 1 + settings.steps // evaluation_interval(settings)


def microbatch_size(settings: TrainingConfig, processes: int) -> int:
    """Return the sequences in one forward pass of one process."""
    microbatch = settings.microbatch_size or max(1, settings.batch_size // processes)
    together = microbatch * processes
    if settings.batch_size % together:
        next_multiple = -(-settings.batch_size // together) * together
        raise ConfigError(
            "training.batch_size must be a multiple of training.microbatch_size × processes.",
            where="training.batch_size",
            facts=[f"batch_size {settings.batch_size}", f"microbatch_size {microbatch} × {processes} processes"],
            fix=f"set batch_size {next_multiple}, or a microbatch_size that divides it",
        )
    return microbatch
