"""Columns that concern the teacher alone: the name of each row's teacher, and the prompts that only it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from distillab.data.columns import MadeWhenRead
from distillab.data.encoded_rows import EncodedRows, RowWriter
from distillab.data.encoding import Dropped, EncodedRow, Encoder
from distillab.data.example_table import BATCH_ROWS
from distillab.data.examples import Example
from distillab.data.textfiles import first_of
from distillab.errors import DataError
from distillab.terminal import plural


def require_names(examples: Sequence[Example], column: str, names: Sequence[str], *, where: str) -> None:
    """Check that every row names one of the teachers.

    Args:
        column: that has the names; the rows hold it as `Example.beside`.
        names: of the teachers.
        where: the source of the rows, for messages.
    Raises:
        DataError: rows have no name there, or an unknown one; counted.
    """
    unknown = Counter(repr(example.beside[column]) for example in examples if example.beside[column] not in names)
    if unknown:
        first = {repr(example.beside[column]): example.origin for example in reversed(examples)}
        raise DataError(
            f'{unknown.total()} of {len(examples)} rows name no teacher in the column "{column}".',
            where=where,
            facts=first_of(
                [
                    f"{'no name' if name == 'None' else name}: {plural(number, 'row')}, the first {first[name]}"
                    for name, number in unknown.most_common()
                ]
            ),
            fix=f"write one of {', '.join(names)} in every row, held-out rows too, or add the teacher to teachers",
        )


def require_every_teacher(examples: Sequence[Example], column: str, names: Sequence[str], *, where: str) -> None:
    """Check that every teacher has training rows.

    Raises:
        DataError: one has none.
    """
    counts = Counter(example.beside[column] for example in examples)
    idle = [name for name in names if not counts[name]]
    if idle:
        raise DataError(
            f"No training row names the teacher {' or '.join(idle)}.",
            where=where,
            facts=[f"{name}: {plural(counts[name], 'row')}" for name in names],
            fix="leave that teacher out of teachers, or give it rows",
        )


class _WithPrompts(MadeWhenRead[Example]):
    """Examples with the prompts of a column; each is made when it is read."""

    def __init__(self, examples: Sequence[Example], column: str) -> None:
        self._examples, self._column = examples, column

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return (example.with_prompt(example.beside[self._column]) for example in self._examples)

    def _at_place(self, place: int) -> Example:
        example = self._examples[place]
        return example.with_prompt(example.beside[self._column])


def with_teacher_prompts(examples: Sequence[Example], column: str, *, where: str) -> Sequence[Example]:
    """Return the examples with the prompts of a column.

    Args:
        column: its name; the rows hold it as `Example.beside`.
        where: their source, for messages.
    Raises:
        DataError: plain text, which has no prompt; or rows without a text in that column, counted.
    """
    if any(example.kind == "text" for example in examples):
        raise DataError(
            f"Plain text has no prompt that teacher.prompt_column: {column} could replace.",
            where=where,
            fix="give rows with prompt and answer, or conversations",
        )
    bad = [problem for example in examples if (problem := _problem(example, column))]
    if bad:
        raise DataError(
            f'{len(bad)} of {len(examples)} rows have no prompt for the teacher in the column "{column}".',
            where=where,
            facts=first_of(bad),
            fix=f'give every row, held-out rows too, a text in "{column}" (the usual prompt where there is no hint)',
        )
    return _WithPrompts(examples, column)


def teacher_rows(
    encoder: Encoder, examples: Sequence[Example], student: Sequence[EncodedRow], *, context: int | None, where: str
) -> EncodedRows:
    """Encode rows with the teacher's prompts, each cut after as many scored tokens as the student's row has.

    Args:
        encoder: of the tokens that both models read; its `max_tokens` is not applied to the teacher's prompt.
        examples: with the teacher's prompts.
        student: the student's row of each.
        context: tokens that the teacher reads at most.
        where: their source, for messages.
    Raises:
        DataError: rows whose answers have other tokens after the teacher's prompt, or that are too long; counted.
    """
    whole, other, long = encoder.with_max_tokens(None), list[str](), list[str]()
    pairs = zip(examples, student, strict=True)
    with RowWriter() as writer:
        while some := list(islice(pairs, BATCH_ROWS)):
            made = list(_cut(whole, some, context=context, other=other, long=long))
            if made:
                writer.append_made(made, start=writer.count)
    for bad, rule, fix in (
        (other, "have another answer, in tokens, after the teacher's prompt", "use a template that keeps the answer"),
        (long, f"do not fit into the teacher's context of {context} tokens", "shorten the prompts of the teacher"),
    ):
        if bad:
            raise DataError(f"{len(bad)} of {len(student)} rows {rule}.", where=where, facts=first_of(bad), fix=fix)
    return writer.rows()


def _cut(
    whole: Encoder,
    pairs: Sequence[tuple[Example, EncodedRow]],
    *,
    context: int | None,
    other: list[str],
    long: list[str],
) -> Iterator[EncodedRow]:
    """Yield the rows of `teacher_rows`; those that cannot be read are added to the lists."""
    for (example, row), read in zip(pairs, whole.encode_some([example for example, _ in pairs]), strict=True):
        wanted = row.input_ids[row.answer_mask]
        scored = np.flatnonzero([] if isinstance(read, Dropped) else read.answer_mask)[: len(wanted)]
        if isinstance(read, Dropped) or not np.array_equal(read.input_ids[scored], wanted):
            other.append(example.origin)
            continue
        end = int(scored[-1]) + 1
        if context is not None and end > context:
            long.append(f"{example.origin}: {end} tokens")
        mask, prompt = read.answer_mask[:end], read.prompt_length
        if prompt >= end:  # cut before the last answer: the last one that was begun
            prompt = end - int(np.flatnonzero(~mask[::-1])[0])
        yield EncodedRow(row.key, read.input_ids[:end], mask, prompt)


def _problem(example: Example, column: str) -> str | None:
    value = example.beside.get(column)
    if not isinstance(value, str) or not value.strip():
        return f"{example.origin}: {'none' if value is None else repr(value)[:80]}"
    if example.kind == "messages" and not any(turn.role == "user" for turn in example.messages):
        return f"{example.origin}: no user turn that it could replace"
    return None
