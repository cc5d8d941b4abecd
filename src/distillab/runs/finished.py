"""What a finished run left behind, and whether it is still that when a study or the same command reads it again."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from distillab.errors import DataError
from distillab.files import file_sha256, sync
from distillab.records import RunRecord, read_record
from distillab.training.projectors import FILE as PROJECTORS

RECORD, HELD_OUT, STUDENT = "run.json", "held_out.jsonl", "student"
_AGAIN = "restore the folder from a copy; or delete its run.json, and the same command makes the run again"


def files_left(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file that a run's record speaks of, safe on disk."""
    single = [path for path in (folder / HELD_OUT, folder / PROJECTORS) if path.is_file()]
    paths = [*single, *sorted(path for path in (folder / STUDENT).rglob("*") if path.is_file())]
    for path in (*paths, folder / STUDENT, folder):
        sync(path)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def read_finished(folder: Path, *, arm: str, seed: int, identity: str) -> RunRecord | None:
    """The record of a run, with every file that it speaks of checked; None where the run is not finished.

    Args:
        identity: of the run that is expected here.
    Raises:
        DataError: the record is damaged, or of another run, or a file is not the one that it speaks of.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_record(RunRecord, path, fix=_AGAIN)
    expected = {"arm": arm, "seed": str(seed), "identity": identity}
    found = {"arm": record.arm, "seed": str(record.seed), "identity": record.identity}
    wrong = [
        f"{name}: expected {value}, there {found[name]}" for name, value in expected.items() if found[name] != value
    ]
    if wrong:
        raise DataError("The record is that of another run.", where=str(path), facts=wrong, fix=_AGAIN)
    require_unchanged(folder, record.files, fix=_AGAIN)
    return record


def require_unchanged(folder: Path, files: dict[str, str], *, fix: str) -> None:
    """Check files against what a record says of them.

    Args:
        files: name -> sha256.
        fix: what to do otherwise.
    Raises:
        DataError: a file is gone, or is another one.
    """
    wrong = []
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is gone")
        elif sha256_of(path) != digest:
            wrong.append(f"{name} has other bytes than when the record was made")
    if wrong:
        raise DataError("Files of a finished run have changed since.", where=str(folder), facts=wrong[:8], fix=fix)


def sha256_of(path: Path) -> str:
    """The sha256 of a file; one that has neither another size nor another time of change is not read again."""
    stat = path.stat()
    return _sha256(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: str, size: int, time_ns: int) -> str:
    return file_sha256(Path(path))
