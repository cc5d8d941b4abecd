"""Correlate several checks: which findings of a log are caused by errors of a batch or a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from distillab.config.terms import TermConfig
from distillab.doctor.causes import follows
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.run.logs import Run
from distillab.doctor.run.series import CROSS_ENTROPY, RunSeries
from distillab.records import Finding, Investigation

# errors of a batch by which the training loss is not that of the evaluated answers
_LABELS = (
    "answer-at-prompt-positions labels-misaligned labels-not-inputs labels-not-shifted labels-of-other-rows "
    "labels-shifted-twice labels-shifted-wrong-way mask-inverted"
)
# what a log shows if the training loss is not that of the held-out answers
_EFFECTS = "held-out-above-uniform held-out-never-below-unigram held-out-worse-than-untrained overfitting same-answer"
_BY_ID = frozenset(
    settings.model_fields["kind"].default
    for settings in get_args(get_args(TermConfig)[0])
    if settings.tokens == "shared"
)
_ONLY_FREQUENCIES = "the batch: the answer is predicted at the prompt's positions, which teaches only token frequencies"
# such labels train only token frequencies: a held-out loss far below the unigram line is from other labels
_LEARNED = 0.8


@dataclass(frozen=True, eq=False)
class CheckedLog:
    """One log and its findings; `unigram_nats` is that of similar rows, if the log does not have it."""

    name: str
    runs: tuple[Run, ...]
    investigation: Investigation
    unigram_nats: float | None = None


def compared_by_id(series: RunSeries) -> tuple[str, ...]:
    """Return the terms in a log that compare the two models by id or by position."""
    return tuple(name for name in series.term_names if _kind(name) in _BY_ID)


def explained(
    logs: Sequence[CheckedLog], *, batch: Sequence[Finding], tokens: Finding | None
) -> tuple[CheckedLog, ...]:
    """Return the logs; findings that follow from an error of the batch or of the tokens name it as their cause.

    An error of a batch explains findings on cross-entropy, tokens that do not match those on the teacher. If a log
    does not name the terms of its loss, both can be the cause.

    Args:
        batch: findings of the batch.
        tokens: the finding of compared tokens that do not match, if it is an error.
    """
    return tuple(_explained(log, batch, tokens) for log in logs)


@check("correlate")
def check_together(logs: Sequence[CheckedLog], *, batch: Sequence[Finding], tokens: Finding | None) -> Checked:
    """Check whether batch and logs belong together, and count the findings with a cause.

    Args:
        logs: after `explained`.
    """
    causes = len(_faults(batch)) + (tokens is not None)
    follow = [f for log in logs for f in log.investigation.findings if f.follows_from]
    yield Scope(f"{causes} causes and {len(logs)} logs: {len(follow)} findings of the logs follow from a cause")
    yield from _strangers(logs, _faults(batch))


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
    if finding.id not in _EFFECTS.split():
        return finding
    return follows(finding, [cause.id for cause in causes], severity=finding.severity)


def _faults(batch: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in batch if finding.severity == "error" and finding.id in _LABELS.split()]


def _strangers(logs: Sequence[CheckedLog], faults: Sequence[Finding]) -> Iterator[Finding]:
    """Yield findings for logs that cannot come from the given batch."""
    if not any(fault.id == "answer-at-prompt-positions" for fault in faults):
        return
    for log in logs:
        for run in log.runs:
            series = run.series.in_order()
            unigram = series.facts.unigram_nats or log.unigram_nats
            held_out = series.held_out_losses() if CROSS_ENTROPY in series.term_names else ()
            if unigram is None or not held_out or not series.facts.held_out_is_cross_entropy:
                continue
            step, best = min(held_out, key=lambda pair: pair[1])
            if best < _LEARNED * unigram:
                seen = f"{log.name}: held-out {best:.3f} nats/token at step {step:,}; the unigram line is {unigram:.3f}"
                yield from_page("log-of-another-run", seen, _ONLY_FREQUENCIES)


def _kind(name: str) -> str:
    """Return the kind of a term: `token_divergence` for `token_divergence_2`."""
    kind, _, number = name.rpartition("_")
    return kind if number.isdigit() else name
