"""The sentences before all findings of a run or study: a student that begins or ends worse than it should."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.doctor.page import from_page
from distillab.doctor.run.logs import Run
from distillab.records import CheckResult, StudyResults, outlook, teachers_not_better


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


def worse_than_start(sentences: Sequence[str]) -> CheckResult:
    """Return the finding for these sentences if no other one explains them."""
    finding = from_page("worse-than-start", *sentences)
    return CheckResult(check="run-outlook", scope="the start and the end of every arm", findings=(finding,))


def check_teachers(results: StudyResults) -> CheckResult:
    """Teachers that are not better than SFT on the data set's answers.

    Args:
        results: of a finished study.
    """
    sentences = teachers_not_better(results)
    findings = (from_page("teacher-not-better", *sentences),) if sentences else ()
    return CheckResult(check="study-teachers", scope="the teachers against SFT", findings=findings)
