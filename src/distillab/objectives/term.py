"""What a term is, and the weighted sum of terms that a run trains on.

Shape letters: N flattened scored positions, V student vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from distillab.config.methods import TokenNeed
from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_count
from distillab.records import ACCESS_ORDER, AccessLevel
from distillab.teachers.protocol import Teacher
from distillab.teachers.signals import TeacherSignal


@dataclass(frozen=True)
class StudentScores:
    """The student's side of one microbatch."""

    logits_NV: Tensor
    targets_N: Tensor


class Term(Protocol):
    """One summand of an objective."""

    name: str
    access: AccessLevel
    tokens: TokenNeed

    def count(self, batch: TokenBatch) -> int:
        """How many units this microbatch adds to the normaliser; known before the forward pass."""
        ...

    def per_position(self, student: StudentScores, signal: TeacherSignal | None) -> Tensor:
        """(N,) nats; their sum is the term's value on this microbatch."""
        ...


class TokenTerm:
    """Base of the terms that give one value for each scored token."""

    def count(self, batch: TokenBatch) -> int:
        """Scored tokens of the microbatch."""
        return scored_count(batch)


@dataclass(frozen=True)
class WeightedTerm:
    """A term and its factor in the sum. `name` is the term's own, numbered where the term occurs more than once."""

    name: str
    term: Term
    weight: float


@dataclass(frozen=True)
class Objective:
    """Σ weight · (sum of the term / its count over the whole optimizer step)."""

    terms: tuple[WeightedTerm, ...]

    @property
    def needs_signal(self) -> bool:
        """True where any term reads the teacher."""
        return any(weighted.term.access != "none" for weighted in self.terms)

    def require(self, teacher: Teacher | None) -> None:
        """Check, when the run is built, that the teacher can give what the terms need.

        Raises:
            TeacherError: there is no teacher, or its access level is too low.
        """
        for weighted in self.terms:
            term = weighted.term
            if term.access == "none":
                continue
            if teacher is None:
                raise TeacherError(f"The term {weighted.name} needs a teacher, and there is none.")
            given = teacher.capabilities.access
            if ACCESS_ORDER.index(given) < ACCESS_ORDER.index(term.access):
                raise TeacherError(
                    f"The teacher cannot give what the term {weighted.name} needs.",
                    facts=[f"needed: {term.access}", f"given: {given}"],
                )
