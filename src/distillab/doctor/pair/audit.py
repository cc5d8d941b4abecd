"""`audit_pair`: can this student learn from this teacher, and is the teacher's signal about the student's tokens?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distillab.doctor.clock import Clock, guessed_s
from distillab.doctor.pair.alignment import check_alignment
from distillab.doctor.pair.bos import check_begin
from distillab.doctor.pair.contract import check_contract
from distillab.doctor.pair.loading import load_pair
from distillab.doctor.pair.padding import check_padding
from distillab.doctor.pair.precision import check_mode, check_precision
from distillab.doctor.pair.quality import check_quality
from distillab.doctor.pair.queries import affordable_tokens, device_of
from distillab.doctor.pair.subject import PairSubject
from distillab.doctor.pair.template import check_template
from distillab.pairing.admission import pair_check
from distillab.records import CheckResult, Investigation

__all__ = ["PairSubject", "audit_pair", "run_pair_checks"]


@dataclass(frozen=True)
class _Probe:
    """A check of the two models.

    Attributes:
        name: as in its record.
        tokens: that a model reads in all its passes together, at most, however cheap it is.
        passes: that each token takes.
    """

    name: str
    examine: Callable[[PairSubject], CheckResult]
    tokens: int
    passes: float = 1.0


# those that read little first
_CHECKS = (
    _Probe("teacher's mode", check_mode, 256, passes=2.0),
    _Probe("number format", check_precision, 512, passes=3.0),
    _Probe("alignment", check_alignment, 2_048, passes=2.0),
    _Probe("vocabulary padding", check_padding, 2_048),
    _Probe("template", check_template, 4_096),
    _Probe("BOS token", check_begin, 4_096, passes=2.0),
    _Probe("teacher's knowledge", check_quality, 1 << 30, passes=2.0),
)
CHECKS = 1 + len(_CHECKS)


def run_pair_checks(subject: PairSubject, clock: Clock | None = None) -> Iterator[CheckResult]:
    """Run all checks of a pair, one record each. Neither model is changed; a missing one is named in `skipped`.

    Args:
        clock: what would take longer than it allows is left out, and named; None: nothing is.
    Raises:
        DataError: an example cannot be rendered by the run's template.
    """
    if clock is not None:
        clock.begin("tokenizers")
    yield check_contract(subject)
    teacher = subject.teacher_model
    token_s = 0.0
    if teacher is not None:
        token_s = guessed_s(2 * teacher.num_parameters(), device_of(teacher).type)
    for check in _CHECKS:
        if clock is not None:
            clock.begin(check.name)
        tokens = 0.0
        if subject.lacking_teacher is None:
            tokens = check.passes * min(check.tokens, affordable_tokens(teacher, subject.student_model))
        if clock is not None and (refusal := clock.refuses_s(tokens * token_s)) is not None:
            yield CheckResult(check=check.name, scope="nothing", skipped=refusal)
            continue
        since = time.monotonic()
        found = check.examine(subject)
        if tokens and found.skipped is None:
            # rows may be fewer than the tokens that a check would read: then it looks cheaper than it is, and so are
            # those that follow
            token_s = (time.monotonic() - since) / tokens
        yield found


def audit_pair(
    teacher: str | Path,
    student: str | Path,
    data: str | Path | None = None,
    *,
    rows: int = 128,
    template: str = "auto",
    max_tokens: int = 256,
    dtype: str = "auto",
    device: str = "auto",
    compares_by_index: bool = True,
) -> Investigation:
    """Examine a teacher and a student that were saved, before anything is trained.

    Args:
        teacher, student: folders or hub ids. One with only a tokenizer is judged by that alone.
        data: a file of rows, as for training; None: the tokenizers alone are judged.
        rows: how many of its first rows are read; some are read by the models, the others count tokens.
        template: how rows are written: auto, plain, chat, alpaca, turns, or a text with {prompt}.
        max_tokens: rows are cut there, and at the shorter of both contexts.
        dtype: of both models: auto (as stored), float32, bfloat16, float16.
        device: auto, cpu, cuda.
        compares_by_index: the loss will compare tokens by their ids; unrelated ids are an error then, else a note.
    Raises:
        ConfigError, TeacherError: a folder is not there, or cannot be loaded.
        DataError: tokenizer or rows cannot be read.
        TokenizerMismatch: a tokenizer does not give the ids of its own tokenizer.json.
    """
    subject = load_pair(
        str(teacher),
        str(student),
        None if data is None else str(data),
        rows=rows,
        template=template,
        max_tokens=max_tokens,
        dtype=dtype,
        device=device,
        compares_by_index=compares_by_index,
    )
    return Investigation(
        subject=f"teacher {teacher}, student {student}",
        checks=tuple(run_pair_checks(subject)),
        pairing=pair_check(subject.contract),
    )
