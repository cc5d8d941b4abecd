"""What a form of API must provide so that text can be scored by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from distillab.cache.next_tokens import TopK
from distillab.models.generation import Generated, GeneratedText
from distillab.teachers.protocol import Prompt, Sampling
from distillab.teachers.served.exchange import Call, Read


@dataclass(frozen=True)
class Wanted:
    """A row to score.

    Attributes:
        ids: its tokens, with BOS if the teacher reads one.
        scored: places of the tokens whose log-probability is wanted, rising, none of them 0.
        k: entries a position.
        width: W, ids of the teacher.
        where: the row, for messages.
        kept: what the server gives is kept, for the row can be asked again.
    """

    ids: Sequence[int]
    scored: Sequence[int]
    k: int
    width: int
    where: str
    kept: bool = True


@dataclass(frozen=True)
class ScoringCall:
    """A request that scores some of a row's tokens, one after another, and how its answer is read."""

    call: Call
    read: Read[TopK]


@dataclass(frozen=True)
class AnswerCall:
    """A request for one answer, and how it is read."""

    call: Call
    read: Read[Generated | GeneratedText]


class AnsweringDialect(Protocol):
    """A form of API that generates answers."""

    def answer_call(self, prompt: Prompt, sampling: Sampling) -> AnswerCall:
        """Return the request of one answer; `sampling.seed` is this answer's own."""
        ...


class ScoringDialect(Protocol):
    """A form of API that gives log-probabilities of given text.

    Attributes:
        hot: fields of a request that ask for temperature 2.
    """

    hot: ClassVar[Mapping[str, Any]]

    def calls(self, wanted: Wanted) -> list[ScoringCall]:
        """Return the requests that together score a row; their answers, in this order, are its positions."""
        ...
