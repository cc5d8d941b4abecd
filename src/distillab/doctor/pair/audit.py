"""`audit_pair`: can this student learn from this teacher, and is the teacher's signal about the student's tokens?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from distillab.config.data import SourceConfig
from distillab.data.examples import Example
from distillab.data.reading import load_reader
from distillab.data.row_examples import to_examples
from distillab.data.sources import read_rows
from distillab.doctor.clock import Clock, guessed_s
from distillab.doctor.pair.contract import check_contract
from distillab.doctor.pair.precision import check_mode, check_padding, check_precision
from distillab.doctor.pair.quality import check_begin, check_quality, check_template
from distillab.doctor.pair.subject import PairSubject, affordable_tokens, contract_of, device_of
from distillab.doctor.pair.verdict import check_alignment
from distillab.errors import ConfigError
from distillab.models.loading import context_length, load_config, load_model, model_name, pick_device
from distillab.pairing.admission import pair_check
from distillab.pairing.loading import find_file
from distillab.paths import is_gguf, is_local, local_path
from distillab.records import CheckResult, Investigation

__all__ = ["PairSubject", "audit_pair", "run_pair_checks"]
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MOST_ROWS = 2_000
_PROMPT_SHARE = 0.25


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
    paths = (str(teacher), str(student))
    examples = _first_rows(str(data), rows) if data is not None else ()
    most = min([max_tokens, *(length for path in paths if (length := _context(path)) is not None)])
    # a text without rows is judged by its tokenizers alone, and has no template
    form, kind = (template, examples[0].kind) if examples else ("auto", "text")
    readers = [
        load_reader(path, revision=None, template=form, kind=kind, max_tokens=most, requires_generation_prompt=learns)
        for path, learns in zip(paths, (False, True), strict=True)
    ]
    # a run's folder is called student, whatever model it holds
    of_teacher, of_student = (
        replace(reader, loaded=replace(reader.loaded, name=model_name(path)))
        for reader, path in zip(readers, paths, strict=True)
    )
    models = [
        load_model(path, dtype=dtype, device=pick_device(device), revision=None, role=role)
        if examples and _is_model(path)
        else None
        for path, role in zip(paths, ("teacher", "student"), strict=True)
    ]
    subject = PairSubject(
        contract=contract_of(of_teacher, of_student, examples, "" if data is None else Path(data).name),
        teacher=of_teacher,
        student=of_student,
        examples=examples,
        teacher_model=models[0],
        student_model=models[1],
        compares_by_index=compares_by_index,
    )
    return Investigation(
        subject=f"teacher {teacher}, student {student}",
        checks=tuple(run_pair_checks(subject)),
        pairing=pair_check(subject.contract),
    )


def _first_rows(data: str, rows: int) -> tuple[Example, ...]:
    if not 1 <= rows <= _MOST_ROWS:
        raise ConfigError("The number of rows is out of range.", facts=[f"rows: {rows}"], fix=f"1 to {_MOST_ROWS:,}")
    read = read_rows(SourceConfig(path=data, limit=rows))
    return tuple(to_examples(read, columns=None, prompt_share=_PROMPT_SHARE))


def _context(path: str) -> int | None:
    """Return the positions of the model; None if there is no model, or its config does not give them."""
    if not is_gguf(path) and (find_file(path, "config.json", None) is None or not _is_model(path)):
        return None
    return context_length(load_config(path, revision=None))


def _is_model(path: str) -> bool:
    """Return whether there are weights; a hub id counts as a model."""
    return not is_local(path) or is_gguf(path) or any(any(local_path(path).glob(pattern)) for pattern in _WEIGHTS)
