"""`investigate`: check the given batch, tokenizers, data and logs, separately and together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.doctor.batch.audit import IGNORED, Learns, Shifts, audit_batch
from distillab.doctor.batch.files import load_batches
from distillab.doctor.correlate import CheckedLog, check_together, compared_by_id, explained
from distillab.doctor.data.audit import run_data_checks
from distillab.doctor.data.files import read_examples
from distillab.doctor.data.subject import DataSubject, encode_part, reader_for
from distillab.doctor.pair.contract import UNRELATED, Compares, check_token_ids
from distillab.doctor.pair.subject import PairSubject, contract_of
from distillab.doctor.run.audit import audit_run
from distillab.doctor.run.logs import Runs, read_runs
from distillab.errors import ConfigError
from distillab.evaluation.references import reference_lines
from distillab.pairing.admission import pair_check
from distillab.pairing.loading import load_tokenizer, logits_width
from distillab.records import CheckResult, Investigation

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
