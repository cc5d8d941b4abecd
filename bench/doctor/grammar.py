"""Mutations: what a generated fault does to a good set-up, and the findings that are right for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from bench.doctor.case import Audit, Place
from distillab.records import CheckResult

Kind = Literal["mask", "shift", "template", "tokenizer", "loss", "schedule", "precision", "reduction", "data"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Random = random.Random
SetUp = TypeVar("SetUp")


@dataclass(frozen=True)
class Mutation(Generic[SetUp]):
    """One rule of the grammar.

    expected: each of these ids names the fault rightly, by what the fault is. beside: true of it as well.
    change: returns the set-up with the fault; its size and place are drawn. fits: the set-ups that can have it.
    """

    kind: Kind
    name: str
    expected: frozenset[str]
    beside: frozenset[str]
    fits: Callable[[SetUp], bool]
    change: Callable[[SetUp, Random], SetUp]


@dataclass(frozen=True)
class World(Generic[SetUp]):
    """Set-ups of one audit: how a good one is drawn, how it is examined, and what can be wrong in it.

    name: of a set-up, the trainer whose conventions it has.
    """

    audit: Audit
    draw: Callable[[Random], SetUp]
    name: Callable[[SetUp], str]
    examine: Callable[[SetUp, Place], Sequence[CheckResult]]
    mutations: Sequence[Mutation[SetUp]]


def _any(made: object) -> bool:
    return True


class Mutations(list[Mutation[SetUp]]):
    """The rules of one audit, a row each: kind, name, the right ids and how the fault is made.

    right, beside: ids with a blank between them.
    """

    def add(
        self,
        kind: Kind,
        name: str,
        right: str,
        change: Callable[[SetUp, Random], SetUp],
        fits: Callable[[SetUp], bool] = _any,
        *,
        beside: str = "",
    ) -> None:
        """A fault of this kind, which each of the right ids names rightly."""
        assert right, "a fault has a right id"
        self.append(Mutation(kind, name, frozenset(right.split()), frozenset(beside.split()), fits, change))

    def rule(
        self, kind: Kind, right: str, fits: Callable[[SetUp], bool] = _any, *, beside: str = ""
    ) -> Callable[[Callable[[SetUp, Random], SetUp]], Callable[[SetUp, Random], SetUp]]:
        """The same where `change` has several lines: a decorated function, which gives the rule its name."""

        def keep(change: Callable[[SetUp, Random], SetUp]) -> Callable[[SetUp, Random], SetUp]:
            self.add(kind, change.__name__.replace("_", "-"), right, change, fits, beside=beside)
            return change

        return keep
