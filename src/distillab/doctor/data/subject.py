"""The rows that are examined, what a teacher wrote to them, and the rows as the student reads them.

They are encoded whole once, so that what a longest length cuts off is seen.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distillab.data.encoding import Dropped, EncodedRow, Encoder
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.templates import resolve_template
from distillab.pairing.loading import LoadedTokenizer

# 10,000 rows of 200 tokens take about 5 s of one core
MOST_ROWS = 10_000
MOST_CHARACTERS = 6_000_000
# maximum length of a row: no truncation
UNCUT = 1 << 30


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
        MOST_ROWS + 1,
        examples,
        key=lambda example: hashlib.blake2b(example.prompt.encode(), digest_size=8).digest(),
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
