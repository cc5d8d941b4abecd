"""Compare two finished studies: the same arms, over the rows and seeds that both have measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillab.records import (
    FAMILIES,
    HEADLINES,
    ArmResult,
    ComparedArm,
    ComparedFigure,
    Comparison,
    EncodingCounts,
    Family,
    Metric,
    RunRecord,
    StudyComparison,
    StudyResults,
    read_record,
    read_study,
)
from distillab.runs.folder import HELD_OUT, RECORD, read_held_out
from distillab.study.comparisons import Judged, comparisons

_UNITS = "{:,} rows, {:,} tokens"


def compare_studies(first: Path, second: Path) -> StudyComparison:
    """Compare two studies by their folders; a difference is the second minus the first.

    It has an interval where both have the same seeds and held-out rows of an arm.

    Raises:
        DataError: a folder has no finished study, or files of its runs are missing or damaged.
    """
    found = [read_study(folder) for folder in (first, second)]
    by_name = [{arm.name: arm for arm in results.arms} for results in found]
    both = [name for name in by_name[0] if name in by_name[1]]
    return StudyComparison(
        first=str(first),
        second=str(second),
        titles=(found[0].title, found[1].title),
        differs=_differs(*found),
        arms=tuple(_arm((first, by_name[0][name]), (second, by_name[1][name])) for name in both),
        only_first=tuple(name for name in by_name[0] if name not in both),
        only_second=tuple(name for name in by_name[1] if name not in both),
    )


def _differs(first: StudyResults, second: StudyResults) -> tuple[tuple[str, str, str], ...]:
    """Return what is not the same of both: data, budget, seeds, versions, machine."""
    each = [
        ("budget", first.budget, second.budget),
        ("training rows", *_training_rows(first, second)),
        ("held-out rows", _counts([first.held_out_counts]), _counts([second.held_out_counts])),
        ("seeds", _seeds(first), _seeds(second)),
    ]
    names = dict.fromkeys((*first.environment, *second.environment))
    each += [(name, first.environment.get(name, "–"), second.environment.get(name, "–")) for name in names]
    return tuple((what, a, b) for what, a, b in each if a != b)


def _training_rows(first: StudyResults, second: StudyResults) -> tuple[str, str]:
    """Return the counts of the sources that both have; of all where there is none: an arm can have rows of its own."""
    each = [{one.source: one for one in results.train_counts} for results in (first, second)]
    shared = [name for name in each[0] if name in each[1]]
    a, b = (_counts([found[name] for name in shared or found]) for found in each)
    return a, b


def _counts(found: Sequence[EncodingCounts]) -> str:
    return "; ".join(f"{one.source}: {_UNITS.format(one.kept, one.tokens)}" for one in found)


def _seeds(results: StudyResults) -> str:
    each = {", ".join(map(str, arm.seeds)) for arm in results.arms}
    return " or ".join(sorted(each))


def _arm(first: tuple[Path, ArmResult], second: tuple[Path, ArmResult]) -> ComparedArm:
    arms = first[1], second[1]
    why = None
    if arms[0].seeds != arms[1].seeds:
        why = f"seeds {', '.join(map(str, arms[0].seeds))} and {', '.join(map(str, arms[1].seeds))}"
    judged = [_judged(folder, arm) for folder, arm in (first, second)]
    if why is None and _keys(judged[0]) != _keys(judged[1]):
        why = "other held-out rows"
    every = () if why else comparisons(judged[1], judged[0])
    figures = []
    for family, compared in _each_topic(every):
        metric = _metric(arms, HEADLINES[family] if compared is None else (compared.metric,))
        if metric is not None:
            means = [_mean(arm, metric.name) for arm in arms]
            difference = None if compared is None else compared.difference
            figures.append(
                ComparedFigure(
                    family=family,
                    label=metric.label,
                    unit=metric.unit if compared is None else compared.unit,
                    first=means[0],
                    second=means[1],
                    difference=difference,
                )
            )
    return ComparedArm(name=arms[0].name, figures=tuple(figures), no_interval=why)


def _each_topic(every: Sequence[Comparison]) -> Iterator[tuple[Family, Comparison | None]]:
    """Yield each family with its comparisons, or with None where it has none."""
    for family in FAMILIES:
        compared = [one for one in every if one.family == family]
        yield from ((family, one) for one in compared)
        if not compared:
            yield family, None


def _judged(folder: Path, arm: ArmResult) -> Judged:
    runs = [folder / "runs" / arm.name / f"seed{seed}" for seed in arm.seeds]
    teacher = read_record(RunRecord, runs[0] / RECORD, fix="restore the folder of the study").teacher
    return Judged(arm.evaluations, [read_held_out(run / HELD_OUT) for run in runs], judged_by=teacher)


def _keys(judged: Judged) -> list[list[tuple[Any, Any]]]:
    """Return the key and the length of every scored row, and of every answered prompt, seed by seed."""
    return [[(line.get("key"), line.get("bytes")) for line in lines] for lines in judged.lines]


def _metric(arms: Sequence[ArmResult], names: Sequence[str]) -> Metric | None:
    """Return the first of some metrics that both arms have."""
    shared = (name for name in names if all(_mean(arm, name) is not None for arm in arms))
    name = next(shared, None)
    return None if name is None else arms[0].evaluations[0].metric(name)


def _mean(arm: ArmResult, name: str) -> float | None:
    values = [evaluation.value(name) for evaluation in arm.evaluations]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
