"""`investigate`: check the given batch, tokenizers, data and logs, separately and together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from distillab.config.terms import TermConfig
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.doctor.batch.audit import IGNORED, Learns, Shifts, audit_batch
from distillab.doctor.batch.files import load_batches
from distillab.doctor.causes import follows
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.doctor.data.audit import run_data_checks
from distillab.doctor.data.subject import DataSubject, encode_part, read_examples, reader_for
from distillab.doctor.pair.contract import UNRELATED, Compares, check_token_ids
from distillab.doctor.pair.subject import PairSubject, contract_of
from distillab.doctor.run.audit import audit_run
from distillab.doctor.run.logs import Run, Runs, read_runs
from distillab.doctor.run.series import CROSS_ENTROPY, RunSeries
from distillab.errors import ConfigError
from distillab.evaluation.references import reference_lines
from distillab.pairing.admission import pair_check
from distillab.pairing.loading import load_tokenizer, logits_width
from distillab.records import CheckResult, Finding, Investigation

__all__ = ["Compares", "investigate"]

# rows for the pair and for the unigram loss, which needs at least the second number
_MOST_ROWS, _FEWEST_ROWS = 2000, 20
_NEED_STUDENT = {"batch": "the batch", "teacher": "the teacher", "data": "the rows"}
# option -> the object without which it says nothing
_NEEDS = {
    "compares": "teacher",
    "shifts": "batch",
    "learns": "batch",
    "ignore-index": "batch",
    "pad-id": "batch",
    "vocabulary": "log",
    "held-out": "data",
}
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


def investigate(
    *,
    batch: object | None = None,
    student: str | None = None,
    teacher: str | None = None,
    logs: Sequence[Path] = (),
    data: Path | None = None,
    held_out: Path | None = None,
    compares: Compares | None = None,
    shifts: Shifts | None = None,
    learns: Learns | None = None,
    ignore_index: int | None = None,
    pad_id: int | None = None,
    vocabulary: int | None = None,
) -> Investigation:
    """Check each given object, then all together. Nothing is trained, downloaded or executed.

    Args:
        batch: a file with saved batches (see `load_batches`), or an argument of `audit_batch`. Needs `student`.
        student: folder or hub id of the student's tokenizer.
        teacher: folder or hub id of the teacher's tokenizer. Needs `student`.
        logs: as in `audit_run`. log V is that of the student's tokenizer if the log does not have it.
        data: training rows of the run, for the checks of data, the pair, and the unigram loss. Needs `student`.
        held_out: held-out rows, for overlap with `data`; the unigram loss is then of these rows.
        compares: what the loss compares in the two models: "ids" (any divergence between their logits), "aligned"
            (for two tokenizers), "text" (the teacher's answers). None: read from the log, if it is there.
        shifts, learns, pad_id: as in `audit_batch`.
        ignore_index: the same; None: -100.
        vocabulary: as in `audit_run`, for logs of another trainer.
    Returns:
        The findings, and the methods that are valid for the pair.
    Raises:
        ConfigError: nothing is given, or a tokenizer is missing.
        DataError: an argument cannot be read.
    """
    given = {
        "batch": "in memory" if batch is not None and not isinstance(batch, str | os.PathLike) else batch,
        "student": student,
        "teacher": teacher,
        "data": data,
        "held-out": held_out,
        "log": "; log ".join(map(str, logs)) or None,
    }
    options = {"compares": compares, "shifts": shifts, "learns": learns, "ignore-index": ignore_index}
    _require({**given, **options, "pad-id": pad_id, "vocabulary": vocabulary})
    loaded = None if student is None else load_tokenizer(student)
    examples, judged_by = (
        () if place is None else tuple(read_examples(str(place), columns=None)) for place in (data, held_out)
    )
    reader = None if loaded is None else reader_for(loaded, examples)
    given_logs = tuple(zip(_names(logs), logs, (read_runs(place) for place in logs), strict=True))
    of_batch: tuple[CheckResult, ...] = ()
    if batch is not None and loaded is not None:
        of_batch = audit_batch(
            load_batches(Path(batch)) if isinstance(batch, str | os.PathLike) else batch,
            loaded.tokenizer,
            shifts=shifts,
            learns=learns,
            ignore_index=IGNORED if ignore_index is None else ignore_index,
            pad_id=pad_id,
            vocabulary=logits_width(loaded.path),
        )
    of_pair: tuple[CheckResult, ...] = ()
    of_data = () if data is None or reader is None else run_data_checks(DataSubject(examples, judged_by, reader))
    judged = None
    if teacher is not None and reader is not None:
        of_teacher = reader_for(load_tokenizer(teacher), examples)
        contract = contract_of(of_teacher, reader, examples[:_MOST_ROWS], "" if data is None else data.name)
        subject = PairSubject(contract, of_teacher, reader, examples)
        by_id = tuple(fact for name, _, runs in given_logs for fact in _by_id(name, runs))
        of_pair = (check_token_ids(subject, compares=compares, by_id=by_id),)
        judged = pair_check(contract)
    faults = [finding for one in of_batch for finding in one.findings]
    tokens = next((f for one in of_pair for f in one.findings if f.id == UNRELATED and f.severity == "error"), None)
    unigram = None if reader is None else _unigram(reader, examples, judged_by)
    checked_logs = explained(
        [_log(*one, reader, unigram, vocabulary) for one in given_logs], batch=faults, tokens=tokens
    )
    of_logs = [one for log in checked_logs for one in _named(log, several=len(logs) > 1)]
    together = [check_together(checked_logs, batch=faults, tokens=tokens)] if logs and (of_batch or of_pair) else []
    return Investigation(
        subject="; ".join(f"{name} {value}" for name, value in given.items() if value is not None),
        checks=(*of_batch, *of_pair, *of_data, *of_logs, *together),
        pairing=judged,
    )


def _require(given: Mapping[str, object | None]) -> None:
    """Refuse objects that cannot be checked, and every option without its object."""
    if all(given[name] is None for name in ("batch", "teacher", "data", "log")):
        raise ConfigError(
            "There is nothing to check.",
            facts=["given: no batch, no rows, no teacher, no log"],
            fix="give a batch (--batch), a log (--log), rows (--data) or both tokenizers (--student, --teacher)",
        )
    needing = [words for name, words in _NEED_STUDENT.items() if given[name] is not None]
    if given["student"] is None and needing:
        raise ConfigError(
            "The student's tokenizer is missing.",
            facts=[f"{words} cannot be checked without it" for words in needing],
            fix="--student FOLDER, with the tokenizer that made the student's ids",
        )
    for name, needed in _NEEDS.items():
        if given[name] is not None and given[needed] is None:
            raise ConfigError(f"--{name} needs --{needed}, which is missing.", fix=f"--{needed} …")


def _unigram(reader: Reader, train: Sequence[Example], held_out: Sequence[Example]) -> float | None:
    """Return the loss of token frequencies, counted on the training rows and evaluated on the held-out rows.

    Without held-out rows, half of the training rows are used for the evaluation. None: too few rows.
    """
    if not held_out:
        train, held_out = train[::2], train[1::2]
    splits = [encode_part(reader, part[:_MOST_ROWS]).whole for part in (train, held_out)]
    if min(len(rows) for rows in splits) < _FEWEST_ROWS:
        return None
    return reference_lines(*splits, vocabulary=len(reader.tokenizer)).unigram_nats


def _log(
    name: str, place: Path, runs: Runs, reader: Reader | None, unigram: float | None, vocabulary: int | None
) -> CheckedLog:
    """Audit one log. Reference losses are added to logs of distillab without them, and to logs of other trainers if
    the vocabulary is given: without it their losses are not assumed to be cross-entropies."""
    if vocabulary is not None:
        return CheckedLog(name, runs.runs, audit_run(place, vocabulary=vocabulary, unigram_nats=unigram), unigram)
    facts = [run.series.facts for run in runs.runs]
    if reader is None or not all(one.in_nats and one.uniform_nats is None for one in facts):
        return CheckedLog(name, runs.runs, audit_run(place))
    found = audit_run(place, vocabulary=len(reader.tokenizer), unigram_nats=unigram)
    return CheckedLog(name, runs.runs, found, unigram)


def _by_id(name: str, runs: Runs) -> Iterator[str]:
    """Yield facts on the terms of a log that compare ids."""
    for run in runs.runs:
        if terms := compared_by_id(run.series):
            of_run = f"{name}, {run.series.name}" if run.series.name else name
            yield f"{of_run}: its loss has {', '.join(terms)}"


def _names(logs: Sequence[Path]) -> list[str]:
    """Return names that distinguish several logs."""
    if len(logs) < 2:
        return ["the log" for _ in logs]
    shared = os.path.commonpath([path.absolute() for path in logs])
    return [os.path.relpath(path.absolute(), shared) for path in logs]


def _named(log: CheckedLog, *, several: bool) -> list[CheckResult]:
    """Return the checks of a log, with its name if there are several logs."""
    if not several:
        return list(log.investigation.checks)
    return [
        one.model_copy(
            update={
                "scope": f"{log.name}: {one.scope}",
                "findings": tuple(
                    finding.model_copy(update={"evidence": (f"log: {log.name}", *finding.evidence)})
                    for finding in one.findings
                ),
            }
        )
        for one in log.investigation.checks
    ]


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
