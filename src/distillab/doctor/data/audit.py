"""Check rows of prompts and answers, and the answers that a teacher generated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from distillab.config.data import ColumnsConfig
from distillab.data.examples import Example
from distillab.data.reading import Reader, load_reader
from distillab.doctor.causes import with_causes
from distillab.doctor.data.answers import check_lengths, check_matching
from distillab.doctor.data.content import check_content, check_languages
from distillab.doctor.data.entropy import check_entropy
from distillab.doctor.data.overlap import check_overlap, check_repeats
from distillab.doctor.data.subject import DataSubject, TeacherText, encode_part, read_examples, read_teacher_texts
from distillab.doctor.data.teacher_answers import check_teacher_ends, check_teacher_sources
from distillab.errors import ConfigError, DataError
from distillab.records import CheckResult, Investigation

__all__ = ["DataSubject", "TeacherText", "audit_data", "run_data_checks"]


def run_data_checks(subject: DataSubject) -> tuple[CheckResult, ...]:
    """Look for faults in what a student is given to learn. Nothing is changed, and no model is needed.

    Every row is read as text. The checks of lengths, entropy and unknown tokens encode, of large data, 10,000 rows or
    6 million characters, and name it.

    Returns:
        one record for each check; those of a teacher's answers only where there are any.
    Raises:
        DataError: there are no training rows, or the student's chat template refuses a row.
    """
    if not subject.train:
        raise DataError("There are no rows to examine.", fix="give training rows")
    reader = subject.student
    train = encode_part(reader, subject.train)
    checks = [
        check_lengths(subject.train, train),
        check_repeats(subject.train),
        check_overlap(subject.train, subject.held_out),
        check_entropy(train, encode_part(reader, subject.held_out), reader),
        check_content(subject.train, train, reader.encoder.template, reader.tokenizer),
        check_matching(subject.train),
        check_languages(subject.train),
    ]
    if subject.teacher_texts:
        references: defaultdict[str, list[str]] = defaultdict(list)
        for example in subject.train:
            references[example.prompt].append(example.answer)
        texts = [replace(text, references=tuple(references[text.prompt])) for text in subject.teacher_texts]
        checks += [check_teacher_ends(texts, plain_text=subject.train[0].kind == "text"), check_teacher_sources(texts)]
    return with_causes(checks)


def audit_data(
    train: str | Path | Sequence[Example],
    tokenizer: str | Path | Reader,
    *,
    held_out: str | Path | Sequence[Example] = (),
    answers: str | Path | Sequence[TeacherText] = (),
    columns: ColumnsConfig | None = None,
    template: str = "auto",
    max_tokens: int = 512,
) -> Investigation:
    """Examine rows to learn from, the rows to judge by, and a teacher's answers.

    Args:
        train: file (JSON lines, JSON, Parquet, CSV), saved data set, hub id; or examples.
        tokenizer: the student's, as folder or hub id; or a reader, which has its own template and longest length.
        held_out: as train; none: nothing is compared.
        answers: a folder in which distillab stored a teacher's answers to `train`, a file with prompt and answer (and
            finish_reason), or texts.
        columns: that hold prompt and answer in both files; None: recognised by their names.
        template: in which rows will be rendered.
        max_tokens: where a run cuts rows.
    Raises:
        DataError: something cannot be read, or the parts are of different kinds.
        ConfigError: no such template or folder, or max_tokens below 4.
        CacheError: the folder with answers is damaged.
        TokenizerMismatch: the tokenizer disagrees with its own file.
    """
    if max_tokens < 4:
        raise ConfigError("No row fits into so few tokens.", facts=[f"max_tokens {max_tokens}; at least 4"])
    rows = _examples(train, columns)
    judged = _examples(held_out, columns)
    if not rows:
        raise DataError("There are no rows to examine.", fix="give training rows")
    kinds = sorted({example.kind for example in chain(rows, judged)})
    if len(kinds) > 1:
        raise DataError(
            "The rows are of different kinds.",
            facts=[f"kinds: {', '.join(kinds)}"],
            fix="give training and held-out rows with the same columns, or name the columns",
        )
    if not isinstance(tokenizer, Reader):
        tokenizer = load_reader(
            str(tokenizer), revision=None, template=template, kind=rows[0].kind, max_tokens=max_tokens
        )
    texts = read_teacher_texts(str(answers), rows) if isinstance(answers, (str, Path)) else answers
    name = str(train) if isinstance(train, (str, Path)) else f"{len(rows):,} rows"
    subject = DataSubject(rows, judged, tokenizer, tuple(texts))
    return Investigation(subject=name, checks=run_data_checks(subject))


def _examples(given: str | Path | Sequence[Example], columns: ColumnsConfig | None) -> Sequence[Example]:
    return read_examples(str(given), columns=columns) if isinstance(given, (str, Path)) else given
