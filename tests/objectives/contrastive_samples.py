"""Rows in two toy tokenisations, states for them, and the spans of both read off by loops.

A token is some letters; `^` begins a text on the teacher's side alone, `$` ends one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from distillab.config.layer_terms import ContrastiveConfig
from distillab.data.collation import Collator
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedCollator, PairedRow
from distillab.models.activations import Activations
from distillab.models.batch import TokenBatch
from distillab.objectives.contrastive import Contrastive
from tests.objectives.samples import STUDENT, TEACHER, D, E, states_of

Side = Literal["left", "right"]
# prompt and answer of the student, of the teacher; a token is some letters, and its id is known by them
ROWS = [
    ("h ab", "c d e cd a b $", "^ h a b", "cd e c d ab $"),  # spans cd, e, cd (other tokens), ab, $
    ("g", "a bcd h c", "g", "a bc d h c"),
    ("b", "a b a b c a", "^ b", "ab ab c a"),  # ab stands twice, in the same tokens
    ("c", "efg", "c", "e f g"),  # one span: nothing to be told apart from but the queue
    ("c d", "", "^ cd", ""),  # none
    ("a b", "cd d cd f e", "^ ab", "c d d cd f e"),
]
ALL = list(range(len(ROWS)))


def id_of(token: str) -> int:
    return 3 + sum((ord(letter) - 35) * 7**place for place, letter in enumerate(token))


def ends_of(tokens: Sequence[str]) -> list[int]:
    return [sum(len(token) for token in tokens[: place + 1] if token != "^") for place in range(len(tokens))]


def spans_of(tokens: Sequence[str], others: Sequence[str]) -> list[int]:
    borders = sorted(set(ends_of(tokens)) & set(ends_of(others)) - {0})
    return [
        -1 if token == "^" else next(number for number, border in enumerate(borders) if end <= border)
        for token, end in zip(tokens, ends_of(tokens), strict=True)
    ]


def paired_row(number: int) -> PairedRow:
    student_prompt, student_answer, teacher_prompt, teacher_answer = (part.split() for part in ROWS[number])
    student, teacher = student_prompt + student_answer, teacher_prompt + teacher_answer

    def encoded(tokens: list[str], prompt: int) -> EncodedRow:
        ids = np.array([id_of(token) for token in tokens], dtype=np.int32)
        return EncodedRow(f"row{number}", ids, np.arange(len(ids)) >= prompt, prompt)

    return PairedRow(
        number,
        encoded(student, len(student_prompt)),
        encoded(teacher, len(teacher_prompt)),
        np.array(spans_of(student, teacher), dtype=np.int64),
        np.array(spans_of(teacher, student), dtype=np.int64),
    )


def span_batch(numbers: Sequence[int], student: Side = "right", teacher: Side = "left") -> TokenBatch:
    return PairedCollator(Collator(0, student), Collator(1, teacher))([paired_row(number) for number in numbers])


def contrastive_term(**changes: Any) -> Contrastive:
    torch.manual_seed(3)
    config = ContrastiveConfig(**{"width": 5, "queue": 7, "temperature": 0.2, **changes})
    return Contrastive(config, student=STUDENT, teacher=TEACHER)


def span_states(term: Contrastive, batch: TokenBatch) -> tuple[Activations, Activations]:
    """Of random size from token to token; padding is NaN."""
    return (
        states_of(batch, sorted(term.student_activations.hidden), D, seed=1),
        states_of(batch["teacher"], sorted(term.teacher_activations.hidden), E, seed=2),
    )


def one_step(term: Contrastive, *batches: TokenBatch) -> float:
    """One optimizer step of some microbatches: the sum."""
    total = sum(term.total(*span_states(term, batch), batch).item() for batch in batches)
    term.end_step(lambda values: values)
    return total


def naive_spans(term: Contrastive, number: int, pair: tuple[int, int]) -> list[tuple[tuple[str, ...], Tensor, Tensor]]:
    """(the teacher's tokens, the student's state, the teacher's state) of each span that is scored, float64."""
    batch = span_batch([number])
    student, teacher = span_states(term, batch)
    sides = [part.split() for part in ROWS[number]]
    ours, theirs = sides[0] + sides[1], sides[2] + sides[3]
    found = []
    for span in sorted(set(spans_of(ours, theirs)) - {-1}):
        places_s = [place for place, of in enumerate(spans_of(ours, theirs)) if of == span]
        places_t = [place for place, of in enumerate(spans_of(theirs, ours)) if of == span]
        if min(places_s) < len(sides[0]) or min(places_t) < len(sides[2]):
            continue
        means = []
        for states, places in ((student.hidden[pair[0]][0], places_s), (teacher.hidden[pair[1]][0], places_t)):
            vectors = [states[place].double() for place in places]
            scaled = [vector / math.sqrt(sum(float(x) ** 2 for x in vector) / len(vector)) for vector in vectors]
            means.append(sum(scaled[1:], scaled[0]) / len(scaled))
        found.append((tuple(theirs[place] for place in places_t), means[0], means[1]))
    return found
