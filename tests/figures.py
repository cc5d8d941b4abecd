"""A model's figures without a model: the record that evaluation makes, with values of the test's choice."""

from __future__ import annotations

import torch

from distillab.evaluation.calibration import Calibration
from distillab.evaluation.likelihood import RowScores
from distillab.evaluation.summary import fidelity, summarise
from distillab.evaluation.text_match import judge
from distillab.records import EvaluationRecord


def figures(*, rows: int = 20, tokens: int = 180, generated: int = 0, **values: float | None) -> EvaluationRecord:
    """The record of a model; a metric that is not named has no value."""
    one = torch.ones(1, dtype=torch.float64)
    scores = RowScores(("row",), one, one, one, one, one, one, one, one, Calibration(1, 0.5, 0.5, 0.0))
    record = summarise(scores, scored_bytes=4 * tokens)
    made = judge(["a"], ["a"], stopped=[True], lengths=[1], value_pattern="(a)").metrics if generated else ()
    own = fidelity(scores, missing="", own_text=True) if generated else ()
    metrics = (*record.metrics, *own, *made)
    unknown = set(values) - {metric.name for metric in metrics}
    assert not unknown, unknown
    counts = {"held-out rows": rows, "generations": generated}
    changed = [metric.model_copy(update={"n": counts[metric.sample]}) for metric in metrics]
    record = record.model_copy(update={"tokens": tokens, "metrics": tuple(changed)})
    for metric in metrics:
        record = with_value(record, metric.name, values.get(metric.name))
    return record


def with_value(record: EvaluationRecord, name: str, value: float | None) -> EvaluationRecord:
    """The record with another value of one metric; None: it has none."""
    missing = "it was left out" if value is None else None
    metrics = [
        metric.model_copy(update={"value": value, "missing": missing}) if metric.name == name else metric
        for metric in record.metrics
    ]
    return record.model_copy(update={"metrics": tuple(metrics)})


def without_generations(record: EvaluationRecord) -> EvaluationRecord:
    """The record of a model that answered no prompt."""
    kept = tuple(metric for metric in record.metrics if metric.sample != "generations")
    return record.model_copy(update={"metrics": kept})
