"""The rows that are examined, what a teacher wrote to them, how both are read, and the rows as the student reads them.

They are encoded whole once, so that what a longest length cuts off is seen.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from distillab.config.data import ColumnsConfig, SourceConfig
from distillab.data.encoding import Dropped, EncodedRow, Encoder
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.row_examples import examples_of
from distillab.data.row_table import Reading, read_table
from distillab.data.sources import Row, read_rows
from distillab.data.templates import resolve_template
from distillab.errors import DataError
from distillab.pairing.loading import LoadedTokenizer

# 10,000 rows of 200 tokens take about 5 s of one core
MOST_ROWS = 10_000
MOST_CHARACTERS = 6_000_000
# maximum length of a row: no truncation
UNCUT = 1 << 30
_PROMPT_SHARE = 0.25
_BLOCK = 1024
# what servers and libraries write for an answer that ended by itself, and for one that was cut
_FINISHED = dict.fromkeys(("stop", "eos", "end_turn", "stop_sequence", "eos_token"), True)


@dataclass(frozen=True)
class TeacherText:
    """One answer of a teacher (sequence-level KD).

    Attributes:
        prompt: as in `Example.prompt`.
        text: what the teacher wrote after it.
        finished: it ended by itself; False: it was cut off at the longest length; None: not known.
        references: the data set's own answers to the prompt.
    """

    prompt: str
    text: str
    finished: bool | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DataSubject:
    """What the checks of data look at.

    Attributes:
        train: rows to learn from, all of one kind.
        held_out: rows to judge by; none where there is no second part.
        student: encodes as a run does.
        teacher_texts: answers of a teacher, in any order.
    """

    train: Sequence[Example]
    held_out: Sequence[Example]
    student: Reader
    teacher_texts: tuple[TeacherText, ...] = ()


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """Rows of one part, in the order of their prompts' hashes.

    Attributes:
        total: rows of the part.
        looked: rows that were encoded; all of a prompt, except for the last prompt of a large part.
        whole: each of them that has an answer, as long as it is.
        examples: of `whole`.
        max_tokens: at which a run cuts rows.
    """

    total: int
    looked: int
    whole: tuple[EncodedRow, ...]
    examples: tuple[Example, ...]
    max_tokens: int

    @property
    def cut(self) -> tuple[EncodedRow, ...]:
        """The rows as a run learns them: cut at max_tokens, without those whose answer then has no token."""
        rows = (_cut(row, self.max_tokens) for row in self.whole)
        return tuple(row for row in rows if row.answer_mask.any())

    @property
    def summary(self) -> str:
        """How many were encoded, for `scope`."""
        sample = "" if self.looked == self.total else f", {self.looked:,} of them encoded"
        return f"{self.total:,} rows{sample}"


def encode_part(reader: Reader, examples: Sequence[Example]) -> EncodedPart:
    """Encode the rows of a part; of a large one those with the lowest hashes of their prompts.

    Equal prompts are taken together, so that how many answers a prompt has is the same as in all rows.

    Raises:
        DataError: the chat template refuses a conversation.
    """
    encoder = Encoder(reader.tokenizer, reader.encoder.template, UNCUT)
    chosen = _chosen(examples)
    rows: list[EncodedRow] = []
    kept: list[Example] = []
    for example, row in zip(chosen, encoder.encode_some(chosen), strict=True):
        if not isinstance(row, Dropped):
            rows.append(row)
            kept.append(example)
    return EncodedPart(len(examples), len(chosen), tuple(rows), tuple(kept), reader.encoder.max_tokens)


def reader_for(loaded: LoadedTokenizer, examples: Sequence[Example], max_tokens: int = UNCUT) -> Reader:
    """Return the reader of examples for which no recipe names a template: conversations without one are turns in words.

    Raises:
        ConfigError, DataError: the tokenizer's template cannot be used.
    """
    kind = examples[0].kind if examples else "pair"
    bare = kind == "messages" and loaded.tokenizer.chat_template is None
    template = resolve_template("turns" if bare else "auto", loaded.tokenizer, kind)
    return Reader(loaded, Encoder(loaded.tokenizer, template, max_tokens))


def _chosen(examples: Sequence[Example]) -> Sequence[Example]:
    ranked = heapq.nsmallest(
        MOST_ROWS + 1, examples, key=lambda example: hashlib.blake2b(example.prompt.encode(), digest_size=8).digest()
    )
    characters = 0
    for place, example in enumerate(ranked):
        characters += sum(map(len, example.texts))
        if place >= MOST_ROWS or characters > MOST_CHARACTERS:
            return ranked[: max(place, 1)]
    return ranked


def _cut(row: EncodedRow, most: int) -> EncodedRow:
    if len(row) <= most:
        return row
    return replace(row, input_ids=row.input_ids[:most], answer_mask=row.answer_mask[:most], truncated=True)


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
