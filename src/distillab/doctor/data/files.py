"""Reads rows and a teacher's answers from files, in every form that distillab knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data.examples import Example
from distillab.data.row_examples import examples_of
from distillab.data.row_table import Reading, read_table
from distillab.data.sources import Row, read_rows
from distillab.doctor.data.subject import TeacherText
from distillab.errors import DataError

_PROMPT_SHARE = 0.25
_BLOCK = 1024
# what servers and libraries write for an answer that ended by itself, and for one that was cut
_FINISHED = dict.fromkeys(("stop", "eos", "end_turn", "stop_sequence", "eos_token"), True)
_FINISHED |= dict.fromkeys(("length", "max_tokens"), False)


def read_examples(path: str, *, columns: ColumnsConfig | None) -> Sequence[Example]:
    """Rows of a file, a saved data set or a hub id.

    Args:
        columns: that hold prompt and answer, or text; None: recognised by their names.
    Raises:
        DataError: it cannot be read, or its columns are not those of a known shape.
    """
    return read_table(SourceConfig(path=path), Reading(_PROMPT_SHARE, columns=columns)).examples


def read_teacher_texts(path: str, train: Sequence[Example]) -> list[TeacherText]:
    """Answers of a teacher: a folder that distillab stored, or a file with prompts and answers.

    Of a file the columns `finish_reason`, `finish` ("stop", "length") or `finished` (true, false) mark which answers
    ended by themselves.

    Args:
        train: rows whose prompts a stored folder answers; it knows them by their keys.
    Raises:
        DataError: it cannot be read, or the folder answers other rows.
        CacheError: the folder is damaged, or no store of answers.
    """
    if (Path(path) / "identity.json").is_file():
        return _stored(path, train)
    rows = read_rows(SourceConfig(path=path))
    read = examples_of(rows, columns=None, prompt_share=_PROMPT_SHARE)
    if read.shape.kind == "text":
        raise DataError(
            "The teacher's answers need their prompts in the same rows.",
            where=path,
            facts=[f"read as {read.shape}"],
            fix="write the columns prompt and answer",
        )
    finished = {row.origin: _finished(row) for row in rows}
    return [TeacherText(example.prompt, example.answer, finished[example.origin]) for example in read.examples]


def _finished(row: Row) -> bool | None:
    value = next((row.values[name] for name in ("finish_reason", "finish", "finished") if name in row.values), None)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _FINISHED:
        return _FINISHED[value]
    raise DataError(
        "The finish reason of this answer is not known.",
        where=row.origin,
        facts=[f"finish: {ascii(value)[:60]}", f"known: {', '.join(_FINISHED)}, true, false"],
        fix="write finish_reason: stop or length, or leave the column out",
    )


def _stored(path: str, train: Sequence[Example]) -> list[TeacherText]:
    reader = CacheReader(path)
    prompts = {example.key: example.prompt for example in train}
    rows = reader.present_rows().tolist()
    found: list[TeacherText] = []
    unknown: list[str] = []
    for start in range(0, len(rows), _BLOCK):
        for row in reader.read(rows[start : start + _BLOCK], ["text"]):
            text = row.sections["text"]
            assert isinstance(text, Text)
            key = row.key.rpartition("/")[0]
            if key in prompts:
                found.append(TeacherText(prompts[key], text.answer, text.finish == "stop"))
            else:
                unknown.append(row.key)
    if unknown or not found:
        raise DataError(
            "The stored answers are to other prompts than those of the training rows.",
            where=path,
            facts=[f"{len(unknown):,} of {len(rows):,} answers, the first {', '.join(unknown[:3]) or 'none is there'}"],
            fix="give the file with the rows of the teacher's prompts",
        )
    return found
