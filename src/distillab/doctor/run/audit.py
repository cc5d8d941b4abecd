"""`audit_run`: what the log of a finished, running or failed run shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from distillab.doctor.causes import with_causes
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.run.answers import check_answers, check_rollouts
from distillab.doctor.run.figures import check_constants, check_figures, check_terms
from distillab.doctor.run.finite import check_finite, check_order
from distillab.doctor.run.held_out import check_confidence, check_held_out
from distillab.doctor.run.learning_rate import check_gradients, check_learning_rate
from distillab.doctor.run.logs import Run, read_runs
from distillab.doctor.run.reference import check_references, check_rescaling
from distillab.doctor.run.schedule import check_budget, check_differences, check_schedule
from distillab.doctor.run.series import RunFacts
from distillab.errors import ConfigError
from distillab.records import CheckResult, Finding, Investigation, outlook, study_outlook, teachers_not_better

_CHECKS = (
    check_references,
    check_rescaling,
    check_held_out,
    check_gradients,
    check_learning_rate,
    check_schedule,
    check_terms,
    check_constants,
    check_figures,
    check_confidence,
    check_budget,
    check_rollouts,
)
_RUNS_SHOWN = 6
_FACTS_A_RUN = 3


def audit_run(
    place: Path | str,
    *,
    vocabulary: int | None = None,
    loss: Literal["cross_entropy", "divergence"] = "cross_entropy",
    unigram_nats: float | None = None,
    entropy_nats: float | None = None,
    random_student: bool | None = None,
    accumulation: int | None = None,
) -> Investigation:
    """Examine a run by its files; nothing of it is executed, and nothing is trained.

    Args:
        place: a run or study folder of distillab; a folder with transformers' trainer_state.json (or checkpoints with
            one); a file: trainer_state.json, metrics.jsonl, JSON lines, a JSON list, CSV, what a trainer printed, what
            TensorBoard, Trackio or Weights & Biases stored.
        vocabulary: ids of the student's tokenizer, so that log V is known. The records have it; other trainers' logs
            do not. It also means that the logged losses are nats per token.
        loss: what another trainer logs. Where it is a divergence, it is not compared with the lines of cross-entropy.
        unigram_nats: nats per token of a model that knows only token frequencies, where known.
        entropy_nats: the lowest loss that the data allow, where known.
        random_student: whether the student began with random weights, where the records do not have it.
        accumulation: microbatches an optimizer step times processes, for a log whose loss may be off by it.
    Returns:
        one entry a check; of a study one entry a check over all its runs, with the names of the runs in each finding.
    Raises:
        ConfigError: a number that cannot be.
        DataError: nothing there is a log that is known, or it is damaged.
    """
    _require(vocabulary, unigram_nats, entropy_nats, accumulation)
    place = Path(place)
    found = read_runs(place)
    told = partial(
        with_facts,
        vocabulary=vocabulary,
        divergence=loss == "divergence",
        unigram_nats=unigram_nats,
        entropy_nats=entropy_nats,
        random_student=random_student,
        accumulation=accumulation,
    )
    runs = [replace(run, series=replace(run.series, facts=told(run.series.facts))) for run in found.runs]
    by_run = [run_log_checks(run) for run in runs]
    checks = by_run[0] if len(runs) == 1 else _joined([run.series.name for run in runs], by_run)
    results = found.results
    if results is not None:
        checks.append(check_differences(results))
    first = run_outlooks(runs) if results is None else study_outlook(results)
    if first and not any(finding.severity != "note" for one in checks for finding in one.findings):
        checks.append(worse_than_start(first))
    teachers = () if results is None else teachers_not_better(results)
    if results is not None:
        checks.append(check_teachers(teachers))
    return Investigation(subject=str(place), checks=tuple(checks), outlook=(*first, *teachers))


def _require(vocabulary: int | None, unigram: float | None, entropy: float | None, accumulation: int | None) -> None:
    wrong = []
    if vocabulary is not None and vocabulary < 2:
        wrong.append(f"vocabulary {vocabulary}: at least 2")
    if accumulation is not None and accumulation < 1:
        wrong.append(f"accumulation {accumulation}: at least 1")
    for name, value in (("unigram_nats", unigram), ("entropy_nats", entropy)):
        if value is not None and not (math.isfinite(value) and value > 0):
            wrong.append(f"{name} {value}: a positive number of nats per token")
    if wrong:
        raise ConfigError("An argument is out of range.", facts=wrong)


def with_facts(
    facts: RunFacts,
    *,
    vocabulary: int | None,
    divergence: bool = False,
    unigram_nats: float | None = None,
    entropy_nats: float | None = None,
    random_student: bool | None = None,
    accumulation: int | None = None,
) -> RunFacts:
    """Return the facts with the caller's values, which go before those of the records."""
    uniform = None if vocabulary is None else math.log(vocabulary)
    nats = {"uniform_nats": uniform, "unigram_nats": unigram_nats, "entropy_nats": entropy_nats}
    told: dict[str, Any] = {**nats, "random_student": random_student, "accumulation": accumulation}
    if not divergence and any(value is not None for value in nats.values()):
        told |= {"in_nats": True, "held_out_is_cross_entropy": True}
    return replace(facts, **{name: value for name, value in told.items() if value is not None})


def run_log_checks(run: Run) -> list[CheckResult]:
    """Check the log of one run. A check with nothing to examine has no record."""
    ordered = run.series.in_order()
    found = [check_order(run.series), check_finite(run.series), *(check(ordered) for check in _CHECKS)]
    return list(with_causes([one for one in (*found, check_answers(run)) if one.scope]))


def run_outlooks(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the sentences for runs without results of a study; of several, only what holds for all.

    Runs that show a failure on purpose do not count, nor do losses that are no cross-entropies in nats.
    """
    starts, ends, uniform, random = [], {}, None, None
    for run in runs:
        series = run.series.in_order()
        held_out = series.held_out_losses()
        if run.record is not None and run.record.shown_failure is not None:
            continue
        if len(held_out) < 2 or held_out[0][0] != 0 or not series.facts.held_out_is_cross_entropy:
            return ()
        starts.append(held_out[0][1])
        ends[series.name or "the run"] = held_out[-1][1]
        uniform, random = series.facts.uniform_nats, series.facts.random_student
    return outlook(max(starts), ends, uniform=uniform, random=random) if starts else ()


@check("run-outlook")
def worse_than_start(sentences: Sequence[str]) -> Checked:
    """Give the finding for these sentences; only where no other one explains them."""
    yield Scope("the start and the end of every arm")
    yield from_page("worse-than-start", *sentences)


@check("study-teachers")
def check_teachers(sentences: Sequence[str]) -> Checked:
    """Check for teachers that are not better than SFT on the data set's answers, by the sentences about them."""
    yield Scope("the teachers against SFT")
    if sentences:
        yield from_page("teacher-not-better", *sentences)


def _joined(names: list[str], by_run: list[list[CheckResult]]) -> list[CheckResult]:
    """Return one entry a check over all runs; findings of one id and severity become one that names the runs."""
    joined = []
    for name_of_check in dict.fromkeys(one.check for results in by_run for one in results):
        mine = [
            (name, one)
            for name, results in zip(names, by_run, strict=True)
            for one in results
            if one.check == name_of_check
        ]
        done = [(name, one) for name, one in mine if one.skipped is None]
        groups: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
        for name, one in done:
            for finding in one.findings:
                groups.setdefault((finding.id, finding.severity), []).append((name, finding))
        joined.append(
            CheckResult(
                check=name_of_check,
                scope=f"{len(done)} of {len(mine)} runs; the first: {(done or mine)[0][1].scope}",
                skipped=None if done else mine[0][1].skipped,
                findings=tuple(_one(found) for found in groups.values()),
            )
        )
    return joined


def _one(found: list[tuple[str, Finding]]) -> Finding:
    shown = [f"{name}: {fact}" for name, finding in found[:_RUNS_SHOWN] for fact in finding.evidence[:_FACTS_A_RUN]]
    rest = [name for name, _ in found[_RUNS_SHOWN:]]
    first_name, first = found[0]
    return first.model_copy(
        update={
            "evidence": (*shown, *((f"and {len(rest)} more runs: {', '.join(rest)}",) if rest else ())),
            "example": (first_name, *first.example) if first.example else (),
        }
    )
