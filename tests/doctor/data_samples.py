"""Rows of real data sets, as subjects of the doctor; the tests spoil them one way at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from distillab.data.encoding import Encoder
from distillab.data.examples import Example, Message, conversation_example, pair_example, text_example
from distillab.data.reading import Reader, load_reader
from distillab.data.templates import resolve_template
from distillab.doctor.data.subject import DataSubject, TeacherText

ROWS, HELD_OUT = 120, 40


@cache
def reader_of(folder: Path, name: str, template: str = "auto", kind: str = "pair", max_tokens: int = 1200) -> Reader:
    """A student's reader; the tokenizer is loaded once."""
    if (template, kind, max_tokens) == ("auto", "pair", 1200):
        path = str(folder / "tokenizers" / name)
        return load_reader(path, revision=None, template="auto", kind="pair", max_tokens=1200)
    loaded = reader_of(folder, name).loaded
    return Reader(loaded, Encoder(loaded.tokenizer, resolve_template(template, loaded.tokenizer, kind), max_tokens))


@cache
def lines(folder: Path, file: str) -> tuple[dict[str, str], ...]:
    return tuple(json.loads(line) for line in (folder / "text" / file).read_text(encoding="utf-8").splitlines())


def pair(number: int, prompt: str, answer: str) -> Example:
    return pair_example(f"key{number}", f"rows.jsonl:{number}", instruction=prompt, context="", answer=answer)


def pairs(rows: list[tuple[str, str]], first: int = 0) -> tuple[Example, ...]:
    return tuple(pair(first + number, prompt, answer) for number, (prompt, answer) in enumerate(rows))


class Data:
    """GSM8K with a real tokenizer: rows to learn from, rows to judge by, and answers like a good teacher's."""

    def __init__(self, folder: Path, tokenizer: str = "tok512") -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        rows = [(row["question"], row["answer"]) for row in lines(folder, "gsm8k/train.jsonl")]
        self.rows, self.judged = rows[:ROWS], rows[ROWS : ROWS + HELD_OUT]
        # other solutions, as a teacher would write them: the same sentences in its own words
        self.written = [f"Let us see. {answer.split('####')[0].strip()}" for _, answer in self.rows]

    def reader(self, template: str = "auto", max_tokens: int = 1200, kind: str = "pair") -> Reader:
        return reader_of(self.folder, self.tokenizer, template, kind, max_tokens)

    def subject(self, rows: list[tuple[str, str]] | None = None, **changes: object) -> DataSubject:
        """The good subject, with other rows or fields."""
        good = DataSubject(
            train=pairs(self.rows if rows is None else rows),
            held_out=pairs(self.judged, first=10_000),
            student=self.reader(),
        )
        return replace(good, **changes)

    def taught(self, texts: list[str] | None = None, finished: list[bool | None] | None = None) -> DataSubject:
        """With answers of a teacher to the training prompts."""
        texts = self.written if texts is None else texts
        ends = [True] * len(texts) if finished is None else finished
        made = [TeacherText(p, text, end) for (p, _), text, end in zip(self.rows, texts, ends, strict=True)]
        return self.subject(teacher_texts=tuple(made))


def dolly(folder: Path, *, template: str = "alpaca") -> DataSubject:
    """Instructions of many kinds, some with a context."""
    rows = [
        pair_example(f"d{n}", f"dolly:{n}", instruction=r["instruction"], context=r["input"], answer=r["output"])
        for n, r in enumerate(lines(folder, "dolly/dev.jsonl")[:300])
    ]
    return DataSubject(tuple(rows[:250]), tuple(rows[250:]), reader_of(folder, "tok512", template, "pair", 6000))


def stories(folder: Path) -> DataSubject:
    """Plain text."""
    rows = [
        text_example(f"s{n}", f"stories:{n}", text=row["text"], prompt_share=0.25)
        for n, row in enumerate(lines(folder, "tinystories/stories_dev.jsonl")[:150])
    ]
    return DataSubject(tuple(rows[:120]), tuple(rows[120:]), reader_of(folder, "tok512", "plain", "text", 1200))


def conversations(folder: Path) -> DataSubject:
    """Two turns each, of which both are learned."""
    data = Data(folder)
    rows = []
    for number in range(0, ROWS, 2):
        (one, two), (three, four) = data.rows[number : number + 2]
        turns = (Message("user", one), Message("assistant", two), Message("user", three), Message("assistant", four))
        rows.append(conversation_example(f"c{number}", f"chat:{number}", turns))
    return DataSubject(tuple(rows[:50]), tuple(rows[50:]), reader_of(folder, "tok512", "turns", "messages", 1200))
