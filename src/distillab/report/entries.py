"""List the models that a report compares, baselines and arms, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distillab.errors import DataError
from distillab.records import (
    ACCESS_ORDER,
    PRIMARY,
    AccessLevel,
    ArmResult,
    Baseline,
    Comparison,
    CurvePoint,
    EvaluationRecord,
    Interval,
    RunCost,
    ServedCost,
    StudyResults,
    TeacherCost,
)

Kind = Literal["undistilled", "arm", "teacher", "failure"]
_KIND_ORDER: tuple[Kind, ...] = ("undistilled", "arm", "teacher", "failure")
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "right", "left", "pentagon")
# a circle that is open is the undistilled student's
MARKERS = (*_SHAPES, *(f"open {shape}" for shape in _SHAPES[1:]))
COLOURS = 16

ACCESS_MEANING: dict[AccessLevel, str] = {
    "none": "the data set’s own answers; no teacher",
    "text": "the teacher’s answers",
    "top_k": "the teacher’s k most likely next tokens with their probabilities",
    "logits": "the teacher’s full next-token distribution",
    "internals": "the teacher’s hidden states or attention",
}
ON_POLICY = "on text that the student writes in training"


@dataclass(frozen=True)
class Entry:
    """One model or arm of the study.

    `comparable` is False if nats per token cannot be compared with the student's, because the model splits the held-out
    text into other tokens; `across_tokenizers` is True if an arm's teacher does. `on_policy` is True if the student
    writes answers in training, and learns from them.
    `colour` and `marker` are how figures draw it; there are 15 markers and 16 colours.
    """

    name: str
    kind: Kind
    access: AccessLevel | None
    method: str | None
    teacher: str | None
    across_tokenizers: bool
    shown_failure: str | None
    note: str | None
    seeds: tuple[int, ...]
    evaluations: tuple[EvaluationRecord, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    costs: tuple[RunCost, ...]
    against_sft: Interval | None
    comparisons: tuple[Comparison, ...]
    on_policy: bool
    teacher_cost: TeacherCost | None
    served: ServedCost | None
    comparable: bool
    colour: str
    marker: str

    @property
    def is_failure(self) -> bool:
        """Whether the arm shows a failure on purpose; it is no result."""
        return self.kind == "failure"

    @property
    def marked_name(self) -> str:
        """The name, with a shown failure marked as such."""
        return f"{self.name} (shown failure)" if self.is_failure else self.name

    @property
    def shared_s(self) -> float | None:
        """Seconds of what its runs share of the teacher; None where it was made elsewhere."""
        return None if self.teacher_cost is None else self.teacher_cost.seconds

    @property
    def held_out_nats(self) -> tuple[float, ...]:
        """Held-out nats per token, one value a seed; empty for a teacher that gives no scores."""
        return tuple(nats for evaluation in self.evaluations if (nats := evaluation.value(PRIMARY)) is not None)


def entries(results: StudyResults) -> tuple[Entry, ...]:
    """Return all baselines and arms: undistilled student, arms by access level, teachers, shown failures.

    Arms whose teacher has other tokens come after those whose teacher has the student's.

    Raises:
        DataError: an arm has not one evaluation, curve and cost for each seed, or a name is used twice.
    """
    for arm in results.arms:
        _check_lengths(arm)
    names = [point.name for point in results.baselines] + [arm.name for arm in results.arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError("Every baseline and arm of a study needs a different name.", facts=[f"twice: {twice}"])
    other_tokens = _models_with_other_tokens(results)
    found = [_of_baseline(point, point.name not in other_tokens) for point in results.baselines]
    arms = sorted(results.arms, key=lambda arm: (arm.across_tokenizers, ACCESS_ORDER.index(arm.access), arm.on_policy))
    trained = [arm for arm in arms if arm.shown_failure is None]
    shown = [arm for arm in arms if arm.shown_failure is not None]
    found += [_of_arm(arm, f"c{i % COLOURS}", MARKERS[i % len(MARKERS)]) for i, arm in enumerate(trained)]
    found += [_of_arm(arm, "warn", ("cross", "plus", "star")[i % 3]) for i, arm in enumerate(shown)]
    return tuple(sorted(found, key=lambda entry: _KIND_ORDER.index(entry.kind)))


def _check_lengths(arm: ArmResult) -> None:
    lengths = {"evaluations": len(arm.evaluations), "curves": len(arm.curves), "costs": len(arm.costs)}
    wrong = [f"{name}: {length}" for name, length in lengths.items() if length != len(arm.seeds)]
    if wrong:
        raise DataError(
            "An arm has one evaluation, one curve and one cost for each seed.",
            facts=[f"seeds: {len(arm.seeds)}", *wrong],
            where=f"arm {arm.name}",
        )


def _models_with_other_tokens(results: StudyResults) -> set[str]:
    """Return the names of the teachers whose nats per token are in another vocabulary than the student's.

    Found by the contract's verdict, or by another number of scored tokens on the same rows.
    """
    different = {contract.teacher.name for contract in results.contracts if contract.verdict == "different"}
    of_student = {(e.n("held-out rows"), e.tokens) for arm in results.arms for e in arm.evaluations}
    for point in results.baselines:
        rows = point.evaluation.n("held-out rows")
        same_rows = [tokens for n, tokens in of_student if n == rows]
        if point.role == "teacher" and same_rows and point.evaluation.tokens not in same_rows:
            different.add(point.name)
    return different


def _of_baseline(point: Baseline, comparable: bool) -> Entry:
    is_teacher = point.role == "teacher"
    return Entry(
        name=point.name,
        kind="teacher" if is_teacher else "undistilled",
        access=None,
        method=None,
        teacher=None,
        across_tokenizers=False,
        shown_failure=None,
        note=point.note,
        seeds=(),
        evaluations=(point.evaluation,),
        curves=(),
        costs=() if point.correction is None else (point.correction,),
        against_sft=None,
        comparisons=point.comparisons,
        on_policy=False,
        teacher_cost=None,
        served=point.served,
        comparable=comparable or not is_teacher,
        colour="ink" if is_teacher else "muted",
        marker="star" if is_teacher else "ring",
    )


def _of_arm(arm: ArmResult, colour: str, marker: str) -> Entry:
    return Entry(
        name=arm.name,
        kind="arm" if arm.shown_failure is None else "failure",
        access=arm.access,
        method=arm.method,
        teacher=arm.teacher,
        across_tokenizers=arm.across_tokenizers,
        shown_failure=arm.shown_failure,
        note=None,
        seeds=arm.seeds,
        evaluations=arm.evaluations,
        curves=arm.curves,
        costs=arm.costs,
        against_sft=arm.against_sft,
        comparisons=arm.comparisons,
        on_policy=arm.on_policy,
        teacher_cost=arm.teacher_cost,
        served=None,
        comparable=True,
        colour=colour,
        marker=marker,
    )


def of_kind(found: Sequence[Entry], *kinds: Kind) -> tuple[Entry, ...]:
    """Return the entries of the given kinds, in their order."""
    return tuple(entry for entry in found if entry.kind in kinds)
