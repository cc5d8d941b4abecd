"""Our run folders: metrics.jsonl with run.json, or with recipe.json where the run is not finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillab.doctor.run.logs_other import read_json, read_json_lines, read_text
from distillab.doctor.run.rows import LogRow, as_number
from distillab.doctor.run.series import HeldOutPoint, RunFacts, RunSeries, StepPoint
from distillab.errors import DataError
from distillab.records import RunRecord, read_record

METRICS, RECORD, RECIPE = "metrics.jsonl", "run.json", "recipe.json"


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
        values = row.values
        step = int(_required(values, "step", row.where))
        epoch = None if epochs_a_step is None else step * epochs_a_step
        if "terms" in values:
            steps.append(
                StepPoint(
                    step,
                    row.where,
                    loss=_required(values, "loss", row.where),
                    grad_norm=_required(values, "grad_norm", row.where),
                    learning_rate=_required(values, "learning_rate", row.where),
                    epoch=epoch,
                    terms=_numbers(values, "terms", row.where),
                    weights=_numbers(values, "weights", row.where),
                    counts={key: int(value) for key, value in _numbers(values, "counts", row.where).items()},
                    shares=_numbers(values, "gradient_shares", row.where),
                    cosines=_numbers(values, "gradient_cosines", row.where),
                    written=_numbers(values, "rollout", row.where),
                )
            )
        else:
            held_out.append(
                HeldOutPoint(
                    step,
                    row.where,
                    loss=_required(values, "held_out_nats_per_token", row.where),
                    accuracy=_optional(values, "held_out_token_accuracy", row.where),
                    confidence=_optional(values, "held_out_confidence", row.where),
                    calibration_error=_optional(values, "held_out_expected_calibration_error", row.where),
                    epoch=epoch,
                )
            )
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


def _required(values: Mapping[str, Any], key: str, where: str) -> float:
    if key not in values:
        raise DataError("A line of the run's metrics lacks a field.", where=where, facts=[f"missing: {key}"])
    number = as_number(values[key], column=key, where=where)
    if key == "step" and not (math.isfinite(number) and 0 <= number < 1e12):
        raise DataError("The number of a step is a whole number from 0.", where=where, facts=[f"found: {number}"])
    return number


def _optional(values: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if values.get(key) is None else as_number(values[key], column=key, where=where)


def _numbers(values: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    inside = values.get(key) or {}
    if not isinstance(inside, dict):
        raise DataError("A field of the run's metrics is not an object.", where=where, facts=[f"field: {key}"])
    return {name: as_number(value, column=f"{key}.{name}", where=where) for name, value in inside.items()}
