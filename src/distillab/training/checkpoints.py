"""Checkpoints from which a run can resume: complete, sealed, and of the same run.

checkpoints/
  checkpoint-N/    the files of transformers' Trainer, the balanced weights, and `seal.json`, written last
    .writing/        one that is being written; renamed when it is sealed

The seal names every file with its size and SHA-256, the step, the run, and how much of the run's measurements belongs
to that step. So a flipped bit, a missing file, a file of another run, and lost measurements are found before training
resumes, not afterwards in its figures.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillab.errors import DataError, DistillabError, NumericsError
from distillab.files import file_sha256, read_json, sync, write_json
from distillab.models.sharded import local
from distillab.models.structure import is_adapted
from distillab.training.numerics import LOWER_RATE

_MARGIN_BYTES = 1 << 20
_NAME = re.compile(r"checkpoint-(\d+)")
SEAL = "seal.json"


@dataclass(frozen=True)
class Prefix:
    """The first bytes of a file that grows: how many, and their SHA-256."""

    bytes: int
    sha256: str


def prefix_of(content: bytes) -> Prefix:
    """Return the length and hash of all these bytes."""
    return Prefix(len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes are those that were sealed.

    Attributes:
        folder: its place.
        step: number of finished optimizer steps.
        measurements: the part of the run's measurements that belongs to these steps; None: none were kept.
    """

    folder: Path
    step: int
    measurements: Prefix | None


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step, as transformers names it."""
    return checkpoints / f"checkpoint-{step}"


def writing_folder(checkpoints: Path) -> Path:
    """Return the folder in which the next checkpoint is written, until it is sealed."""
    return checkpoints / ".writing"


def step_of(name: str) -> int | None:
    """Return the step of a checkpoint folder's name; None for another name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by their steps, whatever is in them."""
    paths = [(step_of(path.name), path) for path in folder.glob("checkpoint-*")]
    return {step: path for step, path in paths if step is not None}


def begin(checkpoints: Path) -> None:
    """Make the folder for the next checkpoint; files of a killed process are removed."""
    shutil.rmtree(writing_folder(checkpoints), ignore_errors=True)
    writing_folder(checkpoints).mkdir(parents=True)


def seal(checkpoints: Path, step: int, *, run: str, measurements: Prefix | None) -> None:
    """Seal the checkpoint that was written since `begin`, move it to its place, and remove all older ones.

    When this returns, a power cut does not lose it.

    Args:
        run: the identity of the run.
        measurements: see `Checkpoint`.
    """
    written = checkpoint_folder(writing_folder(checkpoints), step)
    files = _files(written)
    for path in (*files.values(), *(path for path in written.rglob("*") if path.is_dir())):
        sync(path)
    write_json(
        written / SEAL,
        {
            "step": step,
            "run": run,
            "measurements": None if measurements is None else vars(measurements),
            "files": {
                name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in files.items()
            },
        },
    )
    put_in_place(checkpoints, step)


def put_in_place(checkpoints: Path, step: int) -> None:
    """Move a whole checkpoint from the folder in which it was written to its place, and remove all others."""
    place = checkpoint_folder(checkpoints, step)
    if place.exists():
        shutil.rmtree(place)  # of the same step, which was repeated
    checkpoint_folder(writing_folder(checkpoints), step).rename(place)
    sync(checkpoints)
    shutil.rmtree(writing_folder(checkpoints))
    # by step: after a clock change the newest one could look like the oldest
    for other, path in checkpoints_in(checkpoints).items():
        if other != step:
            shutil.rmtree(path)


def newest_checkpoint(checkpoints: Path, *, run: str) -> Checkpoint | None:
    """Return the checkpoint of the latest step, every byte of it checked; None if there is none.

    Args:
        run: the identity of the run that resumes.
    Raises:
        DataError: it is not as it was sealed, or of another run. No older one is used instead: that would silently
            repeat work.
    """
    found = checkpoints_in(checkpoints)
    if not found:
        return None
    fix = "restore it from a copy; or delete this folder, and the same command starts the run again"
    return sealed_checkpoint(found[max(found)], run=run, where=str(found[max(found)]), fix=fix)


def sealed_checkpoint(folder: Path, *, run: str, where: str, fix: str) -> Checkpoint:
    """Return the checkpoint in a folder, every byte of it checked.

    Args:
        folder: its name has the step.
        run: the identity of the run that resumes.
        where, fix: of the error.
    Raises:
        DataError: it is not as it was sealed, or of another run or step.
    """
    path = folder / SEAL

    def refused(*facts: str) -> DataError:
        rule = "The checkpoint is not as it was sealed, so the run does not resume from it."
        return DataError(rule, where=where, facts=facts, fix=fix)

    if not path.is_file():
        raise refused(f"{path.name} is not there: it was never finished, or an earlier version made it")
    try:
        content = read_json(path)
        sealed: Mapping[str, Mapping[str, Any]] = content["files"]
        at, of, measured = int(content["step"]), str(content["run"]), content["measurements"]
        measurements = None if measured is None else Prefix(int(measured["bytes"]), str(measured["sha256"]))
        wrong = _differences(folder, {name: (int(one["bytes"]), str(one["sha256"])) for name, one in sealed.items()})
    except (DistillabError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"{path.name} is damaged") from error
    if at != step_of(folder.name):
        wrong.insert(0, f"its folder's name states step {step_of(folder.name)}, its seal step {at}")
    if of != run:
        wrong.insert(0, "it is of another run: another seed, recipe, or files that have changed since")
    if wrong:
        raise refused(*wrong[:8])
    return Checkpoint(folder, at, measurements)


def checkpoint_bytes(model: torch.nn.Module) -> int:
    """Return the size of a checkpoint: the weights, AdamW's two moments of trained weights, and small files."""
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    every = (*model.parameters(), *model.buffers())
    weights = learning if is_adapted(model) else sum(p.numel() * p.element_size() for p in every)
    return weights + 2 * learning + _MARGIN_BYTES


def require_finite_weights(model: torch.nn.Module, *, step: int) -> None:
    """Check that every trained parameter is finite, before it is saved.

    Raises:
        NumericsError: one is NaN or infinite.
    """
    trained = [(name, parameter.detach()) for name, parameter in model.named_parameters() if parameter.requires_grad]
    bad = [name for name, values in trained if not _is_finite(values)]
    if bad:
        raise NumericsError(
            "The student's weights are not finite, so they were not saved.",
            where=f"step {step}",
            facts=[f"tensor: {name}" for name in bad[:5]] + ([f"and {len(bad) - 5} more"] if len(bad) > 5 else []),
            fix=LOWER_RATE,
        )


def _is_finite(values: torch.Tensor) -> bool:
    here = local(values)
    if not here.is_floating_point() or here.numel() == 0:
        return True
    # NaN passes through both; thirty times faster than a test of each value, and without a copy
    return bool(torch.isfinite(torch.stack(torch.aminmax(here))).all())


def _files(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != SEAL}


def _differences(folder: Path, sealed: Mapping[str, tuple[int, str]]) -> list[str]:
    there = _files(folder)
    wrong = [f"{name} is missing" for name in sealed if name not in there]
    wrong += [f"{name} was added" for name in there if name not in sealed]
    for name, (size, digest) in sealed.items():
        path = there.get(name)
        if path is None:
            continue
        if path.stat().st_size != size:
            wrong.append(f"{name} has {path.stat().st_size:,} bytes, sealed were {size:,}")
        elif file_sha256(path) != digest:
            wrong.append(f"{name} has other bytes than those that were sealed")
    return wrong
