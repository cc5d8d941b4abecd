"""A request, and an answer as it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from distillab.teachers.served.errors import CutAnswer, WrongAnswer

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")


@dataclass(frozen=True)
class Call:
    """A request: the path behind the server's address, and the JSON body."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counts them; `cached` are among `prompt`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.prompt - other.prompt, self.cached - other.cached, self.completion - other.completion)


@dataclass(frozen=True)
class Paid:
    """What answers took. requests: failed tries too; seconds: in which at least one was on its way."""

    usage: Usage = Usage()
    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: Paid) -> Paid:
        return Paid(self.usage + other.usage, self.requests + other.requests, self.seconds + other.seconds)

    def __sub__(self, other: Paid) -> Paid:
        return Paid(self.usage - other.usage, self.requests - other.requests, self.seconds - other.seconds)


@dataclass(frozen=True)
class Reading(Generic[T_co]):
    """A checked answer: its value, its tokens, and the backend that the server names (None if it names none)."""

    value: T_co
    usage: Usage
    backend: str | None


Read = Callable[[bytes], Reading[T_co]]
"""Raises CutAnswer or WrongAnswer."""


def decoded(content: bytes, kind: type[S], *, where: str) -> S:
    """Decode an answer.

    Raises:
        CutAnswer: it is not whole JSON, has NaN, which JSON does not have, or is nested too deeply.
        WrongAnswer: a field is missing, or of another type.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise WrongAnswer(
            "The answer of the server lacks what was asked for.",
            where=where,
            facts=[str(error), f"the answer begins: {_start(content)}"],
            fix="the server ignores the request's fields, or has another API: set teacher.server.dialect",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CutAnswer(
            "The answer of the server is not whole JSON.",
            where=where,
            facts=[str(error), f"{len(content):,} bytes; they begin: {_start(content)}"],
        ) from error


def _start(content: bytes) -> str:
    return ascii(content[:120].decode("utf-8", "replace"))
