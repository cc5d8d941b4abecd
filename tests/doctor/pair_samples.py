"""Pairs of real models and tokenizers, as the doctor is given them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from distillab.config.data import SourceConfig
from distillab.data.examples import Example, pair_example, text_example
from distillab.data.reading import Reader, load_reader
from distillab.data.sources import read_rows
from distillab.doctor.pair.subject import PairSubject
from distillab.pairing.contract import compare_tokenizers
from distillab.records import Finding

TEACHER, STUDENT, UNLIKE = "stories260K-tok512", "llama2xs-tok512", "smallmistral-stories"
# the Alpaca wording alone has 100 tokens of a small vocabulary
MAX_TOKENS = {"text": 96, "pair": 320}
ROWS = 32


@cache
def texts(materials: Path) -> tuple[str, ...]:
    rows = read_rows(SourceConfig(path=str(materials / "text/tinystories/stories_dev.jsonl"), limit=ROWS))
    return tuple(str(row.values["text"]) for row in rows)


@cache
def stories(materials: Path, *, pairs: bool = False, words: int = 60) -> tuple[Example, ...]:
    """Beginnings of stories, as text, or asked for by their own beginning."""
    made = []
    for number, text in enumerate(texts(materials)):
        said = text.split(" ")[:words]
        if pairs:
            prompt, answer = " ".join(said[: words // 2]), " ".join(said[words // 2 :])
            made.append(pair_example(str(number), "story", instruction=prompt, context="", answer=answer))
        else:
            made.append(text_example(str(number), "story", text=" ".join(said), prompt_share=0.25))
    return tuple(made)


@cache
def _saved(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    return model


def model_of(materials: Path, name: str) -> PreTrainedModel:
    """A copy that a test may spoil."""
    return copy.deepcopy(_saved(materials / "models" / name))


@cache
def reader_of(folder: Path, *, kind: str = "text", template: str = "auto") -> Reader:
    return load_reader(str(folder), revision=None, template=template, kind=kind, max_tokens=MAX_TOKENS[kind])  # type: ignore[arg-type]


def contract_between(teacher: Reader, student: Reader, *, widths: tuple[int | None, int | None] = (None, None)):
    return compare_tokenizers(teacher.loaded, student.loaded, teacher_width=widths[0], student_width=widths[1])


_contract = cache(contract_between)


def subject_of(
    materials: Path,
    *,
    teacher: str = TEACHER,
    student: str | None = STUDENT,
    tokenizer: str | None = None,
    kind: str = "text",
    template: str = "auto",
) -> PairSubject:
    """A pair of the materials on stories.

    Args:
        student: None: it is random.
        tokenizer: the student's, where it is not that of the student's folder.
    """
    ours = reader_of(materials / "models" / teacher, kind=kind, template=template)
    place = materials / "tokenizers" / tokenizer if tokenizer else materials / "models" / (student or STUDENT)
    theirs = reader_of(place, kind=kind, template=template)
    return PairSubject(
        contract=_contract(ours, theirs),
        teacher=ours,
        student=theirs,
        teacher_model=model_of(materials, teacher),
        student_model=model_of(materials, student) if student else None,
        student_is_random=student is None,
        examples=stories(materials, pairs=kind == "pair"),
        compares_by_index=True,
    )


def with_width(subject: PairSubject, teacher: int) -> PairSubject:
    """The teacher's output layer has so many rows."""
    contract = contract_between(subject.teacher, subject.student, widths=(teacher, len(subject.student.tokenizer)))
    return replace(subject, contract=contract)


def found(checks) -> dict[str, Finding]:
    """All findings by id."""
    return {finding.id: finding for one in checks for finding in one.findings}
