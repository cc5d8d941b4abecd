"""A case: a set-up with one planted fault, or with none; and how what the doctor says of it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distillab.records import CheckResult

SetUp = Literal["ours", "torch", "transformers", "trl-sft", "trl-gkd", "trl-gold", "trl-distillation"]
Audit = Literal["batch", "loss", "run", "pair", "data"]
Needs = Literal["nothing", "materials", "trl"]
Verdict = Literal["found", "another id", "missed", "good", "false alarm"]


@dataclass(frozen=True)
class Place:
    """Where a case finds what it needs.

    materials: real tokenizers, models and texts; None: there are none. scratch: an empty folder of the case's own.
    trl: what `trl_runs` has written; None: it was not run.
    """

    materials: Path | None
    scratch: Path
    trl: Path | None = None

    def material(self, *parts: str) -> Path:
        """A file or folder of the materials."""
        assert self.materials is not None, "the case should say that it needs the materials"
        return self.materials.joinpath(*parts)

    def written(self, *parts: str) -> Path:
        """A file or folder that a trainer of TRL has written."""
        assert self.trl is not None, "the case should say that it needs TRL"
        return self.trl.joinpath(*parts)


@dataclass(frozen=True)
class Case:
    """One case.

    expected: the ids each of which names the planted fault rightly; empty where nothing is planted.
    beside: ids that are true of the set-up as well, because the fault brings them along.
    """

    name: str
    set_up: SetUp
    audit: Audit
    expected: frozenset[str]
    make: Callable[[Place], Sequence[CheckResult]]
    needs: Needs = "materials"
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ScoredCase:
    """The result of a case. false_errors: ids of severity error that are not true of the set-up."""

    case: Case
    verdict: Verdict
    found: tuple[tuple[str, str], ...]
    false_errors: tuple[str, ...]
    seconds: float


def judge(case: Case, checks: Sequence[CheckResult], seconds: float) -> ScoredCase:
    """Found: one of the expected ids is there, at any severity. A note alone is no other id: it is no alarm."""
    found = tuple((finding.id, finding.severity) for one in checks for finding in one.findings)
    ids = {name for name, _ in found}
    errors = tuple(sorted({n for n, grade in found if grade == "error"} - case.expected - case.beside))
    alarms = {name for name, grade in found if grade != "note"}
    verdict: Verdict
    if not case.expected:
        verdict = "false alarm" if errors else "good"
    elif ids & case.expected:
        verdict = "found"
    else:
        verdict = "another id" if alarms - case.beside else "missed"
    return ScoredCase(case, verdict, found, errors, seconds)


class Cases(list[Case]):
    """The cases of one file; a decorated function is the `make` of its case, and gives it its name."""

    def fault(
        self, set_up: SetUp, audit: Audit, *expected: str, needs: Needs = "materials", beside: Sequence[str] = ()
    ) -> Callable[[Callable[[Place], Sequence[CheckResult]]], Callable[[Place], Sequence[CheckResult]]]:
        """A planted fault, which each of the ids would name rightly."""
        assert expected, "a fault has a right id"

        def keep(make: Callable[[Place], Sequence[CheckResult]]) -> Callable[[Place], Sequence[CheckResult]]:
            name = make.__name__.replace("_", "-")
            self.append(Case(name, set_up, audit, frozenset(expected), make, needs, frozenset(beside)))
            return make

        return keep

    def good(
        self, set_up: SetUp, audit: Audit, *, needs: Needs = "materials"
    ) -> Callable[[Callable[[Place], Sequence[CheckResult]]], Callable[[Place], Sequence[CheckResult]]]:
        """A set-up without a fault."""

        def keep(make: Callable[[Place], Sequence[CheckResult]]) -> Callable[[Place], Sequence[CheckResult]]:
            self.append(Case(make.__name__.replace("_", "-"), set_up, audit, frozenset(), make, needs))
            return make

        return keep
