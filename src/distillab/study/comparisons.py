"""Every model of a study against SFT: a difference and a share of the way to the teacher, by each family's headline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillab.evaluation.intervals import Floats, adjusted, paired_interval, recovered_gap
from distillab.records import (
    FAMILIES,
    HEADLINES,
    TASK_SCORES,
    ArmResult,
    Comparison,
    EvaluationRecord,
    Family,
    Interval,
    Metric,
    Recovered,
    TeacherProvenance,
)

_LN2 = math.log(2)


@dataclass(frozen=True)
class Judged:
    """What is compared of a model; one entry a seed, or one alone for a teacher.

    Attributes:
        evaluations: its figures.
        lines: its held-out rows, as `read_held_out` gives them.
        judged_by: the teacher that its fidelity was measured against; None: none, or it is the teacher.
    """

    evaluations: Sequence[EvaluationRecord]
    lines: Sequence[Sequence[dict[str, Any]]]
    judged_by: TeacherProvenance | None = None


def comparisons(model: Judged, sft: Judged, teacher: Judged | str | None = None) -> tuple[Comparison, ...]:
    """Return a model against SFT, by each family that was measured of both.

    Args:
        teacher: that of the model; a text: why there is not one; None: the model is one itself, and has no share of
            the way to it.
    """
    found = []
    for family in FAMILIES:
        same_teacher = family != "fidelity" or _same(model.judged_by, sft.judged_by)
        for metric in _headlines(family, (model, sft)) if same_teacher else ():
            difference = _difference(metric, model, sft)
            recovered, undefined = (None, None) if teacher is None else _gap(metric, model, sft, teacher)
            found.append(
                Comparison(
                    family=family,
                    metric=metric.name,
                    label=metric.label,
                    unit=_unit(metric),
                    difference=difference,
                    recovered=recovered,
                    undefined=undefined,
                )
            )
    return tuple(found)


def against_fixed_data(model: Judged, fixed: Judged) -> tuple[Comparison, ...]:
    """Return an arm whose student writes answers itself against the same loss on stored answers.

    The KL on the text that each student generates comes first, then the headline of each family.
    """
    metric = _shared(("own_kl_from_teacher",), (model, fixed))
    known = all(any("own_kl" in line for line in lines) for one in (model, fixed) for lines in one.lines)
    found = comparisons(model, fixed)
    if metric is None or not known or not _same(model.judged_by, fixed.judged_by):
        return found
    difference = _difference(metric, model, fixed)
    own = Comparison(family="fidelity", metric=metric.name, label=metric.label, unit=metric.unit, difference=difference)
    return (own, *found)


def with_adjusted(arms: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    """Return the arms with p-values for all comparisons of a topic together; a shown failure is no comparison."""
    found = {arm.name: arm for arm in arms}
    every = [(arm.name, one) for arm in arms if arm.shown_failure is None for one in arm.comparisons]
    for topic in dict.fromkeys(one.topic for _, one in every):
        compared = {name: one for name, one in every if one.topic == topic}
        intervals = adjusted([one.difference for one in compared.values()])
        for (name, old), interval in zip(compared.items(), intervals, strict=True):
            new = old.model_copy(update={"difference": interval})
            changed = tuple(new if one.topic == topic else one for one in found[name].comparisons)
            found[name] = found[name].model_copy(update={"comparisons": changed})
    return tuple(found.values())


def _headlines(family: Family, models: Sequence[Judged]) -> tuple[Metric, ...]:
    """Return the first headline of a family that all have, bits per byte if their tokens differ.

    Of benchmarks: each figure of which all have the scores of the same documents.
    """
    if family == "benchmark":
        figures = models[0].evaluations[0].metrics
        shown = [one for one in figures if one.family == family and one.level == "summary" and one.direction]
        return tuple(one for one in shown if _same_documents(one.name, models))
    names = HEADLINES[family]
    if family == "likelihood" and len({tuple(_column(one.lines[0], "tokens")) for one in models}) > 1:
        names = ("bits_per_byte",)
    found = _shared(names, models)
    return () if found is None else (found,)


def _same_documents(metric: str, models: Sequence[Judged]) -> bool:
    """Return whether the scores of each document are kept of all, and are of the same documents and prompts."""
    task = metric.partition("/")[0]
    hashes = {
        next((one.sha256 for one in e.tasks if one.name == task), None) for model in models for e in model.evaluations
    }
    kept = all(lines and metric in lines[0].get(TASK_SCORES, {}) for model in models for lines in model.lines)
    return kept and len(hashes) == 1 and None not in hashes


def _shared(names: Sequence[str], models: Sequence[Judged]) -> Metric | None:
    """Return the first of some metrics that all have."""
    shared = (name for name in names if all(e.value(name) is not None for one in models for e in one.evaluations))
    name = next(shared, None)
    return None if name is None else models[0].evaluations[0].metric(name)


def _difference(metric: Metric, model: Judged, sft: Judged) -> Interval:
    base, weights = _of_seeds(metric, sft)
    seeds = len(base)
    values = [_in_weights_of(one, weights) for one in _each_seed(metric, model, seeds)]
    return paired_interval(values, base, weights).model_copy(update={"direction": metric.direction})


def _gap(compared: Metric, model: Judged, sft: Judged, teacher: Judged | str) -> tuple[Recovered | None, str | None]:
    """Return the share of the way to the teacher; or None, and why there is none."""
    family = compared.family
    if isinstance(teacher, str) and family != "fidelity":
        return None, teacher
    # a teacher has no distance from itself
    goals = [] if family == "fidelity" or isinstance(teacher, str) else [teacher]
    headlines = _headlines(family, (model, sft, *goals))
    metric = next((one for one in headlines if family != "benchmark" or one.name == compared.name), None)
    if metric is None:
        return None, f"the teacher has no {FAMILIES[family]}"
    base, weights = _of_seeds(metric, sft)
    goal = [np.zeros_like(weights)] * len(base)
    for one in goals:
        goal = [_in_weights_of(rows, weights) for rows in _each_seed(metric, one, len(base))]
    whole = paired_interval(goal, base, weights).model_copy(update={"direction": metric.direction})
    if whole.low is None or whole.high is None:
        return None, "too few rows for an interval"
    if whole.outcome != "better":
        return None, (
            f"the teacher is not better than SFT beyond the interval: {whole.mean:+.3f} {_unit(metric)}, "
            f"95 % interval {whole.low:+.3f} to {whole.high:+.3f}"
        )
    values = [_in_weights_of(one, weights) for one in _each_seed(metric, model, len(base))]
    return recovered_gap(values, base, goal, weights), None


Rows = tuple[Floats, Floats]  # (R,) sums and their weights


def _rows(metric: str, lines: Sequence[dict[str, Any]]) -> Rows:
    """Return what a metric is the mean of: the sums of each row, and what they are divided by."""
    if metric in lines[0].get(TASK_SCORES, {}):
        documents = np.array(lines[0][TASK_SCORES][metric], dtype=np.float64)
        return documents, np.ones(len(documents))
    if metric in HEADLINES["task"]:
        scores = [line["scores"][metric] for line in lines if "scores" in line]
        return np.array(scores), np.ones(len(scores))
    if metric == "own_kl_from_teacher":
        return _of_own_text([line for line in lines if "ids" in line])
    tokens = _column(lines, "tokens")
    if metric == "bits_per_byte":
        return (_column(lines, "nats") - _column(lines, "eos_nats")) / _LN2, _column(lines, "bytes")
    return _column(lines, {"nats_per_token": "nats", "kl_from_teacher": "kl"}[metric]), tokens


def _of_own_text(written: Sequence[dict[str, Any]]) -> Rows:
    """Return values whose mean is Σ KL / Σ tokens, and whose spread is that of the ratio, linearised.

    Two models write answers of different lengths, so there is no common weight of a prompt.
    """
    kl, tokens = (np.array([line.get(name, 0.0) for line in written]) for name in ("own_kl", "own_tokens"))
    ratio = kl.sum() / tokens.sum()
    return ratio + (kl - ratio * tokens) / tokens.mean(), np.ones(len(written))


def _column(lines: Sequence[dict[str, Any]], name: str) -> Floats:
    return np.array([line[name] for line in lines if name in line], dtype=np.float64)


def _of_seeds(metric: Metric, model: Judged) -> tuple[list[Floats], Floats]:
    rows = [_rows(metric.name, lines) for lines in model.lines]
    return [values for values, _ in rows], rows[0][1]


def _each_seed(metric: Metric, model: Judged, seeds: int) -> list[Rows]:
    """Return the rows of each seed; those of a teacher for each of them."""
    rows = [_rows(metric.name, lines) for lines in model.lines]
    return rows * seeds if len(rows) == 1 else rows


def _in_weights_of(rows: Rows, weights: Floats) -> Floats:
    """Return the sums as they were with other weights: two tokenizers can score other bytes of the same row."""
    values, own = rows
    return values if (own == weights).all() else values / own * weights


def _unit(metric: Metric) -> str:
    return "bits/byte" if metric.name == "bits_per_byte" else metric.unit


def _same(one: TeacherProvenance | None, other: TeacherProvenance | None) -> bool:
    if one is None or other is None:
        return False
    # the name tells apart what is made of equal weights, by quantisation or another prompt
    return (one.name, one.weights_sha256, one.dtype) == (other.name, other.weights_sha256, other.dtype)
