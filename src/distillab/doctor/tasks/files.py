"""Reads `results_*.json` and `samples_*.jsonl` as lm-evaluation-harness 0.4 writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillab.doctor.run.logs_other import read_json, read_json_lines, read_text
from distillab.errors import DataError

_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d-]+(?:\.\d+)?)\.jsonl")
_RESULTS = re.compile(r"results_(?P<date>.+)\.json")


@dataclass(frozen=True)
class Task:
    """One task of a results file.

    Attributes:
        name: of the task.
        figures: "metric,filter" -> value.
        errors: "metric,filter" -> its standard error.
        shots, version: examples in the prompt, and the task's version; None: not stated.
        samples: the lines of its samples file; none where there is no such file.
    """

    name: str
    figures: Mapping[str, float]
    errors: Mapping[str, float]
    shots: object = None
    version: object = None
    samples: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TaskResults:
    """One results file, with the samples beside it.

    Attributes:
        path: of the file.
        model: its name, as it was given to the harness.
        chat_template: that was applied; None: none was.
        states_template: whether the file says so; files before 0.4.3 do not.
        tasks: by name; groups of tasks, which have no samples of their own, are not among them.
        limit: rows a task, where not all were used.
    """

    path: Path
    model: str
    chat_template: str | None
    states_template: bool
    tasks: Mapping[str, Task] = field(default_factory=dict)
    limit: object = None


def read_results(place: Path) -> TaskResults:
    """Read a results file, or the newest one of a folder and the folders in it.

    Raises:
        DataError: there is none, or it or a samples file beside it is damaged.
    """
    path = _newest(place) if place.is_dir() else place
    value = read_json(read_text(path), where=str(path))
    found = value.get("results") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(one, dict) for one in found.values()):
        raise DataError(
            "The file is no results file of lm-evaluation-harness.",
            where=str(path),
            facts=["a results file has results: {TASK: {METRIC,FILTER: value}}"],
            fix="give results_DATE.json, or the folder of --output_path",
        )
    groups = value.get("group_subtasks")
    grouped = {name for name, inside in groups.items() if inside} if isinstance(groups, dict) else set()
    beside = _samples(path)
    tasks = {
        name: _task(name, figures, value, beside.get(name), f"{path}, results.{name}")
        for name, figures in found.items()
        if name not in grouped
    }
    config = value.get("config")
    template = value.get("chat_template")
    return TaskResults(
        path=path,
        model=str(value.get("model_name") or (config.get("model_args") if isinstance(config, dict) else "") or ""),
        chat_template=template if isinstance(template, str) and template else None,
        states_template="chat_template" in value,
        tasks=tasks,
        limit=config.get("limit") if isinstance(config, dict) else None,
    )


def _newest(folder: Path) -> Path:
    found = [path for path in folder.rglob("results_*.json") if path.is_file() and not path.is_symlink()]
    if not found:
        raise DataError(
            "The folder has no results of lm-evaluation-harness.",
            where=str(folder),
            facts=["looked for results_*.json in it and in the folders in it"],
            fix="give the folder of --output_path; --log_samples writes the samples beside it",
        )
    return max(found, key=lambda path: (path.name, str(path)))


def _samples(path: Path) -> dict[str, Path]:
    """Return task -> its samples file of the same date; of a renamed results file, any that stands beside it."""
    match = _RESULTS.fullmatch(path.name)
    found: dict[str, Path] = {}
    for file in sorted(path.parent.glob("samples_*.jsonl")):
        named = _SAMPLES.fullmatch(file.name)
        if named is not None and (match is None or named["date"] == match["date"]):
            found[named["task"]] = file
    return found


def _task(name: str, figures: Mapping[str, Any], value: Mapping[str, Any], file: Path | None, where: str) -> Task:
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, figure in figures.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float):
            continue  # the alias, and "N/A" for an error that is not known
        metric, comma, kind = key.partition(",")
        if not comma:
            continue
        if metric.endswith("_stderr"):
            errors[f"{metric.removesuffix('_stderr')},{kind}"] = float(figure)
        else:
            values[key] = float(figure)
    lines = tuple(row.values for row in read_json_lines(file)[0]) if file is not None else ()
    if not values and not lines:
        raise DataError("A task has no figure.", where=where, facts=[f"keys: {', '.join(map(str, figures))[:200]}"])
    return Task(name, values, errors, _stated(value, "n-shot", name), _stated(value, "versions", name), lines)


def _stated(value: Mapping[str, Any], part: str, name: str) -> object:
    inside = value.get(part)
    return inside.get(name) if isinstance(inside, dict) else None
