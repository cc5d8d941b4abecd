"""Mutations: what a generated fault does to a good set-up, and the findings that are right for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from bench.doctor.case import Audit, Place
from distillab.records import CheckResult

Kind = Literal["mask", "shift", "template", "tokenizer", "loss", "schedule", "precision", "reduction", "data"]
KINDS: tuple[Kind, ...] = (
    "mask",
    "shift",
    "template",
    "tokenizer",
    "loss",
    "schedule",
    "precision",
    "reduction",
    "data",
)
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


class Mutations(list[Mutation[SetUp]]):
    """The rules of one audit; a decorated function is the `change` of its rule, and gives it its name."""

    def rule(
        self,
        kind: Kind,
        *expected: str,
        fits: Callable[[SetUp], bool] = lambda _: True,
        beside: Sequence[str] = (),
    ) -> Callable[[Callable[[SetUp, Random], SetUp]], Callable[[SetUp, Random], SetUp]]:
        """A fault of this kind, which each of the ids names rightly."""
        assert expected, "a fault has a right id"

        def keep(change: Callable[[SetUp, Random], SetUp]) -> Callable[[SetUp, Random], SetUp]:
            name = change.__name__.replace("_", "-")
            self.append(Mutation(kind, name, frozenset(expected), frozenset(beside), fits, change))
            return change

        return keep
