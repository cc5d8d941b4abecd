"""Fidelity on the students' own answers, for runs that read the teacher from a cache.

No such run loads the teacher. When all are finished it is loaded once, and reads their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillab.evaluation.likelihood import SharedTeacher
from distillab.evaluation.own_text import CACHE_LACKS_IT, own_text_metrics
from distillab.evaluation.protocol import require_finite_figures
from distillab.models.loading import load_model
from distillab.progress import track
from distillab.records import EvaluatedModel, RunRecord, read_record, write_record
from distillab.runs.folder import HELD_OUT, STUDENT, read_held_out
from distillab.runs.inputs import RunInputs
from distillab.runs.several import open_teacher

OWN_TEXT = "own_text"  # folder in a study's


def measure_own_text(folder: Path, runs: Sequence[tuple[RunInputs, RunRecord]]) -> None:
    """Measure the fidelity on own answers of finished runs, where it is missing.

    Args:
        folder: of these measurements, a file a run.
    """
    left: dict[str, list[tuple[RunInputs, RunRecord]]] = {}
    for inputs, record in lacking_own_text(folder, runs):
        each = inputs.recipe.each_teacher
        key = repr([(name, teacher, inputs.recipe.teacher_weights) for name, teacher in each.items()])
        left.setdefault(key, []).append((inputs, record))
    for same in left.values():
        shared = open_teacher(same[0][0]).for_evaluation()
        for inputs, record in track(same, "scoring own answers", total=len(same), unit="runs"):
            _measure(folder, inputs, record, shared)


def lacking_own_text(folder: Path, runs: Sequence[tuple[RunInputs, RunRecord]]) -> list[tuple[RunInputs, RunRecord]]:
    """Return the runs for which `measure_own_text` has something to measure."""
    return [
        (inputs, record)
        for inputs, record in runs
        if all(teacher.has_weights for teacher in inputs.recipe.each_teacher.values())
        and _lacks(with_own_text(folder, record))
    ]


def with_own_text(folder: Path, record: RunRecord) -> RunRecord:
    """Return the record of a run with its fidelity on own answers, where that was measured afterwards."""
    known = _measured(folder, record)
    if known is None:
        return record
    measured = {metric.name: metric for metric in known.evaluation.metrics}
    metrics = tuple(measured.get(metric.name, metric) for metric in record.evaluation.metrics)
    return record.model_copy(update={"evaluation": record.evaluation.model_copy(update={"metrics": metrics})})


def with_own_rows(folder: Path, record: RunRecord, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the held-out lines of a run with what was measured of its own answers afterwards.

    Args:
        folder: as of `measure_own_text`.
    """
    known = _measured(folder, record)
    own = () if known is None else known.own
    return [line | (own[row] if row < len(own) else {}) for row, line in enumerate(lines)]


def _measured(folder: Path, record: RunRecord) -> EvaluatedModel | None:
    path = _path(folder, record)
    if not path.exists():
        return None
    known = read_record(EvaluatedModel, path, fix=f"delete {path.name}, and the same command measures it again")
    # otherwise the run was made again, with other answers
    return known if (known.identity, known.files) == (record.identity, _files(record)) else None


def _lacks(record: RunRecord) -> bool:
    return any(metric.missing == CACHE_LACKS_IT for metric in record.evaluation.metrics)


def _measure(folder: Path, inputs: RunInputs, record: RunRecord, shared: SharedTeacher | None) -> None:
    run = Path(inputs.recipe.output)
    dtype, device = inputs.recipe.student.dtype, inputs.device
    written = [line["ids"] for line in read_held_out(run / HELD_OUT) if "ids" in line]
    metrics, own = own_text_metrics(
        load_model(str(run / STUDENT), dtype=dtype, device=device, revision=None, role="student"),
        inputs.held_out.first(len(written)).prompt_ids,
        written,
        inputs.recipe.evaluation,
        reader=inputs.student,
        shared=shared,
    )
    evaluation = record.evaluation.model_copy(update={"metrics": metrics})
    path = _path(folder, record)
    require_finite_figures(evaluation, where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    files = _files(record)
    found = EvaluatedModel(name=record.name, identity=record.identity, files=files, evaluation=evaluation, own=own)
    write_record(found, path)


def _path(folder: Path, record: RunRecord) -> Path:
    return folder / record.arm / f"seed{record.seed}.json"


def _files(record: RunRecord) -> dict[str, str]:
    return {HELD_OUT: record.files[HELD_OUT]}
