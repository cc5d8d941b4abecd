"""Show what students wrote in training: against the same loss on stored answers, in figures, and in examples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from distillab.records import ArmResult, RolloutRecord, StudyResults
from distillab.report.entries import ON_POLICY
from distillab.report.gaps import difference
from distillab.report.numbers import MISSING, fixed
from distillab.report.safety import shortened, without_blank_runs
from distillab.report.sections import Grid

# name in the record, heading, factor, decimals
_FIGURES = (
    ("length_mean", "tokens an answer", 1.0, 1),
    ("truncated", "cut (%)", 100.0, 1),
    ("repetitive", "repetitive (%)", 100.0, 1),
    ("nats", "nats/token from the teacher", 1.0, 3),
    ("accept", "acceptance (%)", 100.0, 1),
    ("top16_overlap", "top-16 overlap (%)", 100.0, 1),
    ("student_entropy", "student’s entropy", 1.0, 3),
    ("teacher_entropy", "teacher’s entropy", 1.0, 3),
)
_PLACES = (("0_32", "tokens 1–32"), ("32_128", "33–128"), ("128_on", "from 129"))
_BY_PLACE = (
    ("nats", "nats/token from the teacher"),
    ("student_entropy", "student’s entropy"),
    ("teacher_entropy", "teacher’s entropy"),
)


@dataclass(frozen=True)
class Example:
    """A training prompt, and what an arm's student with the first seed answered before and after training."""

    arm: str
    prompt: str
    first: str
    last: str


@dataclass(frozen=True)
class OnPolicy:
    """The report's section on arms whose students write answers in training."""

    against_twins: Grid | None
    figures: Grid
    by_place: Grid
    examples: tuple[Example, ...]
    meaning: str = f"the same, {ON_POLICY}"


def on_policy(results: StudyResults) -> OnPolicy | None:
    """Return the section; None where no student wrote anything."""
    arms = [arm for arm in results.arms if arm.on_policy]
    if not arms:
        return None
    steps = arms[0].rollouts[0].steps
    when = f"the first and the last {steps} steps" if steps > 1 else "the first and the last step"
    return OnPolicy(
        _against_twins([arm for arm in arms if arm.against_twin]),
        _without_empty(
            f"What the students wrote in training: {when}, mean over seeds",
            ("arm", *(heading for _, heading, *_ in _FIGURES)),
            tuple((arm.name, *(_change(arm.rollouts, *figure) for figure in _FIGURES)) for arm in arms),
            "Nats: the arm’s divergence. Acceptance: the chance that the teacher would accept a token of the student. "
            "Overlap: of the 16 most likely tokens. Entropies in nats a token. A cut answer reached max_new_tokens.",
        ),
        _without_empty(
            "The same by place in the answer",
            ("arm", *(f"{text}, {place}" for _, text in _BY_PLACE for _, place in _PLACES)),
            tuple(
                (arm.name, *(_change(arm.rollouts, f"{name}_{key}") for name, _ in _BY_PLACE for key, _ in _PLACES))
                for arm in arms
            ),
            "Where the teacher’s entropy rises along the answer, it corrects late tokens less.",
        ),
        tuple(
            Example(arm.name, *(shortened(without_blank_runs(text)) for text in (one.prompt, one.first, one.last)))
            for arm in arms
            for one in arm.rollouts[0].samples
        ),
    )


def _without_empty(caption: str, headings: tuple[str, ...], rows: tuple[tuple[str, ...], ...], footnote: str) -> Grid:
    """Return a table without the columns that no row has a value in."""
    kept = [place for place in range(len(headings)) if any(row[place] != MISSING for row in rows)]
    of_rows = tuple(tuple(row[place] for place in kept) for row in rows)
    return Grid(caption, tuple(headings[place] for place in kept), of_rows, footnote)


def _against_twins(arms: Sequence[ArmResult]) -> Grid | None:
    if not arms:
        return None
    rows = tuple((arm.name, arm.twin or MISSING, *map(difference, arm.against_twin)) for arm in arms)
    headings = max(([one.label for one in arm.against_twin] for arm in arms), key=len)
    width = 2 + len(headings)
    return Grid(
        "On-policy against the same loss on stored answers",
        ("arm", "compared with", *headings),
        tuple((*row, *[MISSING] * (width - len(row))) for row in rows),
        "Paired over seeds and rows, with a 95 % interval of each comparison alone. The first is what on-policy "
        "training aims at; the likelihood of the data set’s answers may get worse meanwhile.",
    )


def _change(rollouts: Sequence[RolloutRecord], name: str, _: str = "", scale: float = 1.0, decimals: int = 3) -> str:
    known = [(one.first[name], one.last[name]) for one in rollouts if name in one.first and name in one.last]
    if not known:
        return MISSING
    first, last = (statistics.fmean(values) * scale for values in zip(*known, strict=True))
    return f"{fixed(first, decimals)} → {fixed(last, decimals)}"
