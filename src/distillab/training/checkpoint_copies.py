"""Copies of a run's checkpoints in an object store, or in any other place that fsspec writes to.

ADDRESS/IDENTITY/    the first characters of the run's identity, so that runs can share an address
  checkpoint-N/      the files of the checkpoint, and the run's measurements up to it; its seal is uploaded last

An object without a seal is one that is being uploaded or removed, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distillab.cache.sources import open_store
from distillab.errors import DataError, StorageError
from distillab.files import require_space, write_bytes
from distillab.library_errors import library_errors
from distillab.terminal import echo
from distillab.training.checkpoints import (
    SEAL,
    begin,
    checkpoint_folder,
    checkpoints_in,
    prefix_of,
    put_in_place,
    sealed_checkpoint,
    step_of,
    writing_folder,
)

_OF_IDENTITY = 16


@dataclass(frozen=True)
class CheckpointCopies:
    """The copies of one run. One process at a time uses them.

    Attributes:
        address: of the copies of all runs: `training.checkpoint_copy`.
        run: the identity of the run.
        measurements: the file whose first bytes belong to a checkpoint.
    """

    address: str
    run: str
    measurements: Path

    @property
    def place(self) -> str:
        """The address of this run's copies."""
        return f"{self.address.rstrip('/')}/{self.run[:_OF_IDENTITY]}"

    def keep(self, checkpoint: Path) -> None:
        """Upload a checkpoint that was just sealed, then remove older copies.

        Raises:
            StorageError: the store cannot be written. The checkpoint on the disk is whole.
        """
        step = step_of(checkpoint.name)
        assert step is not None
        with self._store("The copy of a checkpoint cannot be written.") as (fs, root):
            there = _files(fs, root)
            if step in there:  # what a killed process left
                _remove(fs, f"{root}/{checkpoint.name}", there[step])
            files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
            sealed = {SEAL: files.pop(SEAL)}
            for name, path in {**files, self.measurements.name: self.measurements, **sealed}.items():
                fs.put_file(str(path), f"{root}/{checkpoint.name}/{name}")
            for other in there:
                if other < step:
                    _remove(fs, f"{root}/checkpoint-{other}", there[other])

    def fetch(self, checkpoints: Path) -> None:
        """Download the newest copy, if its step is later than that of every checkpoint on the disk.

        Raises:
            StorageError: the store cannot be read.
            DataError: the copy is not as it was sealed, or of another run.
        """
        step = max(checkpoints_in(checkpoints), default=0)
        with self._store("The copies of checkpoints cannot be read.") as (fs, root):
            # a process that is killed while it writes a seal into a folder leaves an empty one
            sealed = {step: files for step, files in _files(fs, root).items() if files.get(SEAL)}
            newest = max(sealed, default=0)
            if newest <= step:
                if not step:
                    echo(f"There is no copy of a checkpoint of this run at {self.place}.", error=True)
                return
            place = f"{self.place}/checkpoint-{newest}"
            echo(f"The run resumes from a copy: {place}", error=True)
            require_space(checkpoints, sum(sealed[newest].values()), what="the copy of a checkpoint")
            begin(checkpoints)
            folder = checkpoint_folder(writing_folder(checkpoints), newest)
            for name in sealed[newest]:
                if ".." in PurePosixPath(name).parts:
                    raise self._refused(place, f"a file's name leads out of the folder: {name!a}")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(f"{root}/{folder.name}/{name}", str(folder / name))
        measurements = folder / self.measurements.name
        content = measurements.read_bytes() if measurements.exists() else b""
        measurements.unlink(missing_ok=True)
        found = sealed_checkpoint(folder, run=self.run, where=place, fix=_fix(place))
        if found.measurements != prefix_of(content):
            raise self._refused(place, f"{measurements.name} has other bytes than those that were sealed")
        write_bytes(self.measurements, content)
        put_in_place(checkpoints, newest)

    def _refused(self, place: str, fact: str) -> DataError:
        return DataError("The copy of a checkpoint cannot be used.", where=place, facts=[fact], fix=_fix(place))

    @contextmanager
    def _store(self, rule: str) -> Iterator[tuple[Any, str]]:
        fs, root = open_store(self.place, makes_folders=True)
        fix = "check the address and the credentials of training.checkpoint_copy; the same command resumes the run"
        with library_errors(StorageError, rule, where=self.place, fix=fix):
            fs.invalidate_cache()
            yield fs, root.rstrip("/")


def _fix(place: str) -> str:
    return f"delete the copy at {place}; the same command then starts the run again"


def _files(fs: Any, root: str) -> dict[int, dict[str, int]]:
    """Return the files of each copy with their sizes, by the copy's step."""
    found: dict[int, dict[str, int]] = {}
    for path, facts in fs.find(root, detail=True).items():
        first, _, name = path[len(root) :].lstrip("/").partition("/")
        if (step := step_of(first)) is not None and name:
            found.setdefault(step, {})[name] = int(facts["size"])
    return found


def _remove(fs: Any, folder: str, files: Mapping[str, int]) -> None:
    if SEAL in files:
        fs.rm_file(f"{folder}/{SEAL}")  # first: what is left is no copy
    fs.rm(folder, recursive=True)
