"""Samples in two toy tokenisations whose shared spans can be read off by eye, batched in any way.

Letters are the text; a token is a few letters. `$` ends a text; `^` begins it and lies in no span.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch

from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.data.vocabularies import Vocabularies
from distillab.models.batch import TokenBatch

# ids are places; each side has tokens that the other lacks, and other ids for the same token
STUDENT_TOKENS = ["_", "b", "a", "d", "c", "f", "e", "g", "h", "cd", "bc", "$", "efg", "^", "abc", "dd"]
TEACHER_TOKENS = ["^", "a", "b", "c", "d", "e", "f", "g", "h", "ab", "cd", "gh", "_", "fg", "$"]

# prompt and answer of the student, prompt and answer of the teacher, spans of both sides; the spans of the answer
# are, by hand: cd (2:1), e (1:1), cd (1:2), ab (2:1), $ (1:1) / a (1:1), bcd (2:2), h (1:1) / efg (1:3) / a, $ / none
# / cd (1:2), d, cd (1:2), f / ab (2:1) / abc (1:2), d
SAMPLES = [
    ("h a b", "c d e cd a b $", "^ h ab", "cd e c d ab $"),
    ("g a", "a bc d h", "^ g a", "a b cd h"),
    ("b", "efg", "b", "e f g"),
    ("e f g h", "a $", "^ e fg h", "a $"),
    ("c d", "", "^ cd", ""),
    ("a b", "cd d cd f", "^ ab", "c d d c d f"),
    ("^", "a b", "^", "ab"),
    ("b", "abc d", "b", "ab c d"),
]


def cut(text: str) -> list[str]:
    return text.split()


def spans_by_hand(student: list[str], teacher: list[str]) -> tuple[list[int], list[int]]:
    """The number of the span of every token: texts that end at the same letter end a span; `^` lies in none."""

    def ends(tokens: list[str]) -> list[int]:
        found = 0
        return [found := found + (0 if token == "^" else len(token)) for token in tokens]

    both = sorted(set(ends(student)) & set(ends(teacher)) - {0})

    def numbers(tokens: list[str]) -> list[int]:
        return [
            -1 if token == "^" else next(n for n, border in enumerate(both) if end <= border)
            for token, end in zip(tokens, ends(tokens), strict=True)
        ]

    return numbers(student), numbers(teacher)


def paired_row(number: int, *, same: bool = False) -> PairedRow:
    """A sample as a row; with `same` the student's tokens on both sides."""
    prompt_s, answer_s, prompt_t, answer_t = map(cut, SAMPLES[number])
    if same:
        prompt_t, answer_t = prompt_s, answer_s
    student_spans, teacher_spans = spans_by_hand(prompt_s + answer_s, prompt_t + answer_t)
    tokens = STUDENT_TOKENS if same else TEACHER_TOKENS

    def row(prompt: list[str], answer: list[str], vocabulary: list[str]) -> EncodedRow:
        ids = np.array([vocabulary.index(token) for token in prompt + answer], dtype=np.int32)
        return EncodedRow(f"sample{number}", ids, np.arange(len(ids)) >= len(prompt), len(prompt))

    return PairedRow(
        number,
        row(prompt_s, answer_s, STUDENT_TOKENS),
        row(prompt_t, answer_t, tokens),
        np.array(student_spans, dtype=np.int64),
        np.array(teacher_spans, dtype=np.int64),
    )


def paired_batch(
    numbers: Sequence[int],
    *,
    student: Literal["left", "right"] = "right",
    teacher: Literal["left", "right"] = "right",
    same: bool = False,
) -> TokenBatch:
    """Some samples as one batch; `student` and `teacher` are padding sides."""
    collate = PairedCollator(Collator(0, student), Collator(0 if same else TEACHER_TOKENS.index("_"), teacher))
    return collate([paired_row(number, same=same) for number in numbers])


@cache
def toy_vocabularies(*, same: bool = False) -> Vocabularies:
    """Both vocabularies; with `same` the student's twice. Pieces are not mapped: no test here reads them."""
    teacher = STUDENT_TOKENS if same else TEACHER_TOKENS
    exact = [token in STUDENT_TOKENS for token in teacher]
    projection = VocabularyProjection(
        row_ends=np.cumsum([0, *exact]).astype(np.int64),
        student_ids=np.array([STUDENT_TOKENS.index(token) for token in teacher if token in STUDENT_TOKENS]),
        weights=np.ones(sum(exact), dtype=np.float32),
        how=np.array([HOWS.index("exact" if known else "unmapped") for known in exact], dtype=np.uint8),
        student_width=len(STUDENT_TOKENS),
        teacher_fingerprint="teacher",
        student_fingerprint="student",
    )
    none = torch.zeros(len(STUDENT_TOKENS), dtype=torch.bool), torch.zeros(len(teacher), dtype=torch.bool)
    return Vocabularies(projection, *none)
