"""Read the runs of a place: a run or study of distillab, a trainer's folder or its log."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distillab.doctor.run.logs_other import (
    EVENTS,
    exported_runs,
    of_events,
    of_printed,
    of_rows_file,
    of_trackio,
    of_trainer_state,
    of_wandb,
    read_csv,
    read_json,
    read_json_lines,
    read_text,
)
from distillab.doctor.run.rows import LogRow, as_number
from distillab.doctor.run.series import HeldOutPoint, RunFacts, RunSeries, StepPoint
from distillab.errors import DataError
from distillab.records import RunRecord, StudyResults, read_record

_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
_TABLES = (".csv", ".jsonl", ".ndjson")
_MOST_FILES = 1_000
_READ = (
    f"a run or study folder of distillab, a folder with {_STATE}, event files of TensorBoard, a database of Trackio "
    "or a run of Weights & Biases; a .json, .jsonl, .csv or printed log"
)
METRICS, RECORD, RECIPE = "metrics.jsonl", "run.json", "recipe.json"
# of a line of metrics: attribute of a point -> field
_OF_TERMS = {
    "terms": "terms",
    "weights": "weights",
    "shares": "gradient_shares",
    "cosines": "gradient_cosines",
    "written": "rollout",
}
_HELD_OUT = {
    "accuracy": "held_out_token_accuracy",
    "confidence": "held_out_confidence",
    "calibration_error": "held_out_expected_calibration_error",
}


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
    return Runs(tuple(map(Run, _runs_of(place))))


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
    if tracked := _tracked(folder):
        return Runs(tuple(map(Run, tracked)))
    raise DataError(
        "The folder contains no known log.",
        where=str(folder),
        facts=[
            f"looked for {METRICS}, runs/ARM/SEED/{METRICS}, {_STATE}, checkpoint-N/{_STATE}, {EVENTS}*, *.wandb, *.db"
        ],
        fix=f"give {_READ}",
    )


def _tracked(folder: Path) -> list[RunSeries]:
    """Read what trackers left in a folder and the folders in it: the first kind that is there."""
    found = list(islice((path for path in folder.rglob("*") if _is_tracked(path)), _MOST_FILES))
    runs = sorted(path for path in found if path.suffix == ".wandb")
    if runs:
        return [of_wandb(path, name=path.parent.name if len(runs) > 1 else "") for path in runs]
    events: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in sorted(path for path in found if EVENTS in path.name):
        events[path.parent].append(path)
    if events:
        several = len(events) > 1
        named = [(str(place.relative_to(folder)) if several else "", files) for place, files in events.items()]
        return [of_events(files, name=name) for name, files in named]
    return [series for path in sorted(found) for series in of_trackio(path)]


def _is_tracked(path: Path) -> bool:
    # links are not followed: W&B's latest-run is one, and another may lead anywhere
    known = path.suffix in (".wandb", ".db") or path.name.startswith(EVENTS)
    return known and path.is_file() and not path.is_symlink()


def _runs_of(path: Path) -> list[RunSeries]:
    if path.suffix == ".wandb":
        return [of_wandb(path, name="")]
    if path.name.startswith(EVENTS):
        return [of_events([path], name="")]
    if path.suffix in (".db", ".sqlite"):
        return of_trackio(path)
    exported = exported_runs(read_csv(path), path) if path.suffix.lower() == ".csv" else None
    return [_file(path)] if exported is None else exported


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
        if isinstance(value, dict) and "log_history" in value:
            return of_trainer_state(value, path)
    if kind in _TABLES:
        if kind != ".csv":
            rows, notes = read_json_lines(path)
            if rows and any("terms" in row.values for row in rows):
                facts = RunFacts(in_nats=True, held_out_is_cross_entropy=True)
                return of_metrics_file(rows, name="", facts=facts, epochs_a_step=None, notes=tuple(notes))
        return of_rows_file(path)
    return of_printed(path)


def of_run_folder(folder: Path, *, name: str) -> tuple[RunSeries, RunRecord | None]:
    """Read one run folder, and its record if it is finished.

    Raises:
        DataError: a file of it is damaged.
    """
    record = read_record(RunRecord, folder / RECORD) if (folder / RECORD).exists() else None
    recipe = record.config if record is not None else _recipe(folder)
    rows, notes = read_json_lines(folder / METRICS)
    rows_an_epoch = record.train_counts.kept if record is not None else None
    batch = _at(recipe, "training", "batch_size")
    each = batch / rows_an_epoch if isinstance(batch, int) and rows_an_epoch else None
    if record is not None and record.shown_failure:
        notes = [*notes, f"its record marks it as a planted failure: {record.shown_failure}"]
    series = of_metrics_file(rows, name=name, facts=_facts(recipe, record), epochs_a_step=each, notes=tuple(notes))
    return series, record


def of_metrics_file(
    rows: list[LogRow], *, name: str, facts: RunFacts, epochs_a_step: float | None, notes: tuple[str, ...]
) -> RunSeries:
    """Read the lines of a metrics.jsonl.

    Raises:
        DataError: a line has not the fields of a step or of a held-out measurement.
    """
    steps: list[StepPoint] = []
    held_out: list[HeldOutPoint] = []
    for row in rows:
        step = int(_required(row, "step"))
        epoch = None if epochs_a_step is None else step * epochs_a_step
        if "terms" in row.values:
            figures: dict[str, Any] = {key: _required(row, key) for key in ("loss", "grad_norm", "learning_rate")}
            inside: dict[str, Any] = {own: _numbers(row, key) for own, key in _OF_TERMS.items()}
            counts = {key: int(value) for key, value in _numbers(row, "counts").items()}
            steps.append(StepPoint(step, row.where, epoch=epoch, counts=counts, **figures, **inside))
        else:
            measured = {own: _optional(row, key) for own, key in _HELD_OUT.items()}
            loss = _required(row, "held_out_nats_per_token")
            held_out.append(HeldOutPoint(step, row.where, loss=loss, epoch=epoch, **measured))
    return RunSeries(name, "a run of distillab", tuple(steps), tuple(held_out), facts, notes)


def _facts(recipe: Mapping[str, Any], record: RunRecord | None) -> RunFacts:
    planned, init = _at(recipe, "training", "steps"), _at(recipe, "student", "init")
    return RunFacts(
        uniform_nats=None if record is None else record.references.uniform_nats,
        unigram_nats=None if record is None else record.references.unigram_nats,
        random_student=init == "random" if isinstance(init, str) else None,
        planned_steps=planned if isinstance(planned, int) else None,
        in_nats=True,
        held_out_is_cross_entropy=True,
    )


def _recipe(folder: Path) -> Mapping[str, Any]:
    path = folder / RECIPE
    if not path.exists():
        return {}
    value = read_json(read_text(path), where=str(path))
    if not isinstance(value, dict):
        raise DataError("The recipe of a run is a JSON object.", where=str(path))
    return value


def _at(recipe: Mapping[str, Any], part: str, key: str) -> object:
    inside = recipe.get(part)
    return inside.get(key) if isinstance(inside, dict) else None


def _required(row: LogRow, key: str) -> float:
    number = _optional(row, key)
    if number is None:
        raise DataError("A line of the run's metrics lacks a field.", where=row.where, facts=[f"missing: {key}"])
    if key == "step" and not (math.isfinite(number) and 0 <= number < 1e12):
        raise DataError("The number of a step is a whole number from 0.", where=row.where, facts=[f"found: {number}"])
    return number


def _optional(row: LogRow, key: str) -> float | None:
    return None if row.values.get(key) is None else as_number(row.values[key], column=key, where=row.where)


def _numbers(row: LogRow, key: str) -> dict[str, Any]:
    inside = row.values.get(key) or {}
    if not isinstance(inside, dict):
        raise DataError("A field of the run's metrics is not an object.", where=row.where, facts=[f"field: {key}"])
    return {name: as_number(value, column=f"{key}.{name}", where=row.where) for name, value in inside.items()}
