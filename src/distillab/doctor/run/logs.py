"""Read the runs of a place: a run or study of distillab, a trainer's folder or its log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distillab.doctor.run.logs_distillab import METRICS, of_metrics_file, of_run_folder
from distillab.doctor.run.logs_other import (
    of_printed,
    of_rows_file,
    of_trainer_state,
    read_json,
    read_json_lines,
    read_text,
)
from distillab.doctor.run.series import RunFacts, RunSeries
from distillab.errors import DataError
from distillab.records import RunRecord, StudyResults, read_record

_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
_TABLES = (".csv", ".jsonl", ".ndjson")
_READ = f"a run or study folder of distillab, a folder with {_STATE}, a .json, .jsonl, .csv or printed log"


@dataclass(frozen=True)
class Run:
    """One run: its log, and its folder and record where it is a finished run of distillab."""

    series: RunSeries
    folder: Path | None = None
    record: RunRecord | None = None


@dataclass(frozen=True)
class Runs:
    """All runs of a place; `results` where it is a finished study of distillab."""

    runs: tuple[Run, ...]
    results: StudyResults | None = None


def read_runs(place: Path) -> Runs:
    """Read the log or logs of a file or folder.

    Raises:
        DataError: nothing there is a log that is known, or a log is damaged.
    """
    if place.is_dir():
        return _folder(place)
    if not place.exists():
        raise DataError("There is no such file or folder.", where=str(place), fix=f"give {_READ}")
    return Runs((Run(_file(place)),))


def _folder(folder: Path) -> Runs:
    if (folder / METRICS).exists():
        series, record = of_run_folder(folder, name="")
        return Runs((Run(series, folder, record),))
    found = sorted(path.parent for path in (folder / "runs").glob(f"*/*/{METRICS}"))
    if found:
        runs = []
        for path in found:
            series, record = of_run_folder(path, name=f"{path.parent.name}/{path.name}")
            runs.append(Run(series, path, record))
        finished = folder / "results.json"
        return Runs(tuple(runs), read_record(StudyResults, finished) if finished.exists() else None)
    state = _newest_state(folder)
    if state is not None:
        return Runs((Run(_file(state)),))
    raise DataError(
        "The folder contains no known log.",
        where=str(folder),
        facts=[f"looked for {METRICS}, runs/ARM/SEED/{METRICS}, {_STATE}, checkpoint-N/{_STATE}"],
        fix=f"give {_READ}",
    )


def _newest_state(folder: Path) -> Path | None:
    """Return the trainer's state of a folder, else of its last checkpoint: each has the whole history until then."""
    if (folder / _STATE).exists():
        return folder / _STATE
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    states = [path / _STATE for _, path in sorted(numbered) if (path / _STATE).exists()]
    return states[-1] if states else None


def _file(path: Path) -> RunSeries:
    kind = path.suffix.lower()
    if kind == ".json":
        value = read_json(read_text(path), where=str(path))
        return (
            of_trainer_state(value, path) if isinstance(value, dict) and "log_history" in value else of_rows_file(path)
        )
    if kind in _TABLES:
        if kind != ".csv":
            rows, notes = read_json_lines(path)
            if rows and any("terms" in row.values for row in rows):
                facts = RunFacts(in_nats=True, held_out_is_cross_entropy=True)
                return of_metrics_file(rows, name="", facts=facts, epochs_a_step=None, notes=tuple(notes))
        return of_rows_file(path)
    return of_printed(path)
