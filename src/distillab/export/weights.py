"""The student's weights: as its run saved them, or whole where it saved adapters alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from distillab.errors import ConfigError, DataError
from distillab.export.finished import FinishedRun
from distillab.library_errors import library_errors
from distillab.models.adapters import merged, with_adapter
from distillab.models.loading import load_config, load_model, weights_sha256
from distillab.models.saving import round_weights, save_student, saved_dtype
from distillab.pairing.loading import load_tokenizer
from distillab.paths import is_local


def copy_student(run: FinishedRun, folder: Path) -> None:
    """Copy the files of the student as its run saved them: whole weights, or adapters."""
    shutil.copytree(run.student, folder, dirs_exist_ok=True)


def write_merged(run: FinishedRun, folder: Path) -> None:
    """Write the student with whole weights: adapters are added to the model that they were trained on.

    Raises:
        ConfigError, DataError: see `whole_student`.
    """
    if not run.has_adapters:
        copy_student(run, folder)
        return
    model, settings = whole_student(run), run.settings
    source = load_config(str(settings["path"]), revision=settings["revision"])
    dtype = saved_dtype(str(settings["save_dtype"]), source, model)
    round_weights(model, dtype)
    stops, pad = stop_ids(run), generation_config(run).pad_token_id
    save_student(folder, model, student_tokenizer(run), stop_ids=stops, pad_id=cast(int, pad), dtype=dtype)


def whole_student(run: FinishedRun) -> PreTrainedModel:
    """Return the student with whole weights, on the CPU.

    Raises:
        ConfigError: the model under its adapters is in no folder.
        DataError: the model under its adapters is not the one that they were trained on.
    """
    cpu = torch.device("cpu")
    if not run.has_adapters:
        return load_model(str(run.student), dtype="auto", device=cpu, revision=None, role="student")
    settings = run.settings
    path = str(settings["path"])
    if path.startswith("memory:"):
        raise ConfigError(
            "The adapters were trained on a model in memory, which no file holds.",
            where=str(run.student),
            fix="use --to safetensors, and merge them in Python: distillab.distil returns the model",
        )
    wanted = run.record.fingerprints.get("student")
    if is_local(path) and (found := weights_sha256(path)) != wanted:
        raise DataError(
            "The model under the adapters is not the one that they were trained on.",
            where=path,
            facts=[f"sha256 of its weights: {found}", f"in the run's record: {wanted}"],
            fix="put the model of the run back there; or use --to safetensors, which needs the adapters alone",
        )
    base = load_model(
        path,
        dtype=str(settings["dtype"]),
        device=cpu,
        revision=settings["revision"],
        role="student",
        quantization=settings["quantization"],
    )
    return merged(with_adapter(base, run.student, error=DataError))


def student_tokenizer(run: FinishedRun) -> PreTrainedTokenizerFast:
    """Return the tokenizer that was saved with the student."""
    return load_tokenizer(str(run.student)).tokenizer


def generation_config(run: FinishedRun) -> Any:
    """Return what was saved of how the student generates."""
    with library_errors(DataError, "The student's generation_config.json cannot be used.", where=str(run.student)):
        return GenerationConfig.from_pretrained(run.student)


def stop_ids(run: FinishedRun) -> list[int]:
    """Return the ids that end an answer of the student."""
    found = generation_config(run).eos_token_id
    return list(found) if isinstance(found, list) else [found]
