"""Correlate several checks: what a batch and a pair explain of what a log shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from distillab.config.terms import TermConfig
from distillab.doctor.causes import follows
from distillab.doctor.page import from_page
from distillab.doctor.run.logs import Run
from distillab.doctor.run.series import CROSS_ENTROPY, RunSeries
from distillab.records import CheckResult, Finding, Investigation

CHECK_ID = "together"

# faults of a batch that train the model on something else than the answers it is evaluated on
_LABELS = frozenset(
    (
        "answer-at-prompt-positions",
        "labels-misaligned",
        "labels-not-inputs",
        "labels-not-shifted",
        "labels-of-other-rows",
        "labels-shifted-twice",
        "labels-shifted-wrong-way",
        "mask-inverted",
    )
)
# what a log shows where the loss that falls is not the loss of the held-out answers
_EFFECTS = frozenset(
    (
        "held-out-above-uniform",
        "held-out-never-below-unigram",
        "held-out-worse-than-untrained",
        "overfitting",
        "same-answer",
    )
)
_BY_ID = frozenset(
    settings.model_fields["kind"].default
    for settings in get_args(get_args(TermConfig)[0])
    if settings.tokens == "shared"
)
# such labels show only how often tokens occur; a student that is far below that line was given others
_LEARNED = 0.8


@dataclass(frozen=True, eq=False)
class CheckedLog:
    """One log.

    Attributes:
        name: among the others.
        runs: its runs.
        investigation: what was found in it.
        unigram_nats: of rows like its own, where the log does not know it.
    """

    name: str
    runs: tuple[Run, ...]
    investigation: Investigation
    unigram_nats: float | None = None


def compared_by_id(series: RunSeries) -> tuple[str, ...]:
    """Terms of a run's loss that compare the two models id by id or position by position, as its log names them."""
    return tuple(name for name in series.term_names if _kind(name) in _BY_ID)


def explained(
    logs: Sequence[CheckedLog], *, batch: Sequence[Finding], tokens: Finding | None
) -> tuple[CheckedLog, ...]:
    """The logs with every finding that follows from a fault found elsewhere marked so: the fault is to be mended first.

    A batch's fault explains what a log shows of labels; tokens that do not match, what it shows of a teacher. Where a
    log does not name the terms of its loss, both can.

    Args:
        batch: found in the batch.
        tokens: the finding of tokens that are compared and do not match, where it is an error.
    """
    return tuple(_explained(log, batch, tokens) for log in logs)


def check_together(logs: Sequence[CheckedLog], *, batch: Sequence[Finding], tokens: Finding | None) -> CheckResult:
    """Does what was given belong together, and what explains what?

    Args:
        logs: after `explained`.
    """
    causes = [finding.id for finding in (*_faults(batch), *((tokens,) if tokens else ()))]
    follow = [f for log in logs for f in log.investigation.findings if f.follows_from]
    scope = f"{len(causes)} causes and {len(logs)} logs: {len(follow)} findings of the logs follow from a cause"
    return CheckResult(check=CHECK_ID, scope=scope, findings=tuple(_strangers(logs, _faults(batch))))


def _explained(log: CheckedLog, batch: Sequence[Finding], tokens: Finding | None) -> CheckedLog:
    series = [run.series for run in log.runs]
    causes: list[Finding] = []
    if any(not one.term_names or CROSS_ENTROPY in one.term_names for one in series):
        causes += _faults(batch)
    if tokens is not None and any(not one.term_names or compared_by_id(one) for one in series):
        causes.append(tokens)
    if not causes:
        return log
    checks = tuple(
        one.model_copy(update={"findings": tuple(_linked(finding, causes) for finding in one.findings)})
        for one in log.investigation.checks
    )
    return replace(log, investigation=log.investigation.model_copy(update={"checks": checks}))


def _linked(finding: Finding, causes: Sequence[Finding]) -> Finding:
    if finding.id not in _EFFECTS:
        return finding
    return follows(finding, [cause.id for cause in causes], severity=finding.severity)


def _faults(batch: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in batch if finding.severity == "error" and finding.id in _LABELS]


def _strangers(logs: Sequence[CheckedLog], faults: Sequence[Finding]) -> list[Finding]:
    """Logs that cannot come from the given batch."""
    if not any(fault.id == "answer-at-prompt-positions" for fault in faults):
        return []
    found = []
    for log in logs:
        for run in log.runs:
            series = run.series.in_order()
            unigram = series.facts.unigram_nats or log.unigram_nats
            held_out = series.held_out_losses() if CROSS_ENTROPY in series.term_names else ()
            if unigram is None or not held_out or not series.facts.held_out_is_cross_entropy:
                continue
            step, best = min(held_out, key=lambda pair: pair[1])
            if best < _LEARNED * unigram:
                found.append(_stranger(log.name, step, best, unigram))
    return found


def _stranger(name: str, step: int, best: float, unigram: float) -> Finding:
    return from_page(
        "log-of-another-run",
        evidence=(
            f"{name}: held-out {best:.3f} nats a token at step {step:,}; the unigram line is {unigram:.3f}",
            "the batch: the answer is predicted at the prompt's positions, which teaches only token frequencies",
        ),
    )


def _kind(name: str) -> str:
    """Terms of one kind are named `token_divergence_1`, `token_divergence_2`."""
    kind, _, number = name.rpartition("_")
    return kind if number.isdigit() else name
