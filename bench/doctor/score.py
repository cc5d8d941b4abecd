"""Runs cases, counts, prints."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.doctor.case import Case, Place, ScoredCase, judge

# Of the planted faults; of errors that are not true there may be none.
TARGET = 0.95


def materials() -> Path | None:
    """The folder of the materials, where there is one."""
    folder = Path(os.environ.get("DISTILLAB_MATERIALS", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))
    return folder.resolve() if folder.is_dir() else None


def can_run(case: Case, place: Place) -> bool:
    """Whether what the case needs is there."""
    return {"nothing": True, "materials": place.materials is not None, "trl": place.trl is not None}[case.needs]


def run_cases(
    cases: Iterable[Case], place: Place, *, tell: Callable[[ScoredCase], None] | None = None
) -> list[ScoredCase]:
    """Run each case that can be run, in a scratch folder of its own."""
    judged = []
    for case in cases:
        if not can_run(case, place):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            checks = case.make(replace(place, scratch=Path(scratch)))
            judged.append(judge(case, checks, time.perf_counter() - began))
        if tell is not None:
            tell(judged[-1])
    return judged


def line(one: ScoredCase) -> str:
    """One case on one line, with what was found where it is not what was planted."""
    text = f"{one.verdict:11} {one.case.audit:5} {one.case.set_up:16} {one.case.name:48} {one.seconds:5.1f} s"
    if one.verdict in ("another id", "missed"):
        text += f"  planted: {', '.join(sorted(one.case.expected))}; found: {_found(one)}"
    if one.false_errors:
        text += f"  false errors: {', '.join(one.false_errors)}"
    return text


def _found(one: ScoredCase) -> str:
    return ", ".join(f"{name} ({grade})" for name, grade in one.found if grade != "note") or "nothing"


def summary(judged: Sequence[ScoredCase]) -> str:
    """The table of docs/doctor/how-good.md."""
    lines = [
        "| audit | faults | found with the right id | under another id only | missed | false errors beside the id "
        "| good set-ups | false errors on them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    audits = list(dict.fromkeys(one.case.audit for one in judged))
    for audit in [*audits, None]:
        mine = [one for one in judged if audit is None or one.case.audit == audit]
        faults = [one for one in mine if one.case.expected]
        good = [one for one in mine if not one.case.expected]
        counts = Counter(one.verdict for one in faults)
        share = f"{counts['found']}" + (f" ({counts['found'] / len(faults):.1%})" if faults else "")
        lines.append(
            f"| {audit or '**all**'} | {len(faults)} | {share} | {counts['another id']} | {counts['missed']} "
            f"| {sum(bool(one.false_errors) for one in faults)} | {len(good)} "
            f"| {sum(one.verdict == 'false alarm' for one in good)} |"
        )
    slowest = max(judged, key=lambda one: one.seconds)
    lines += [
        "",
        f"Set-ups: {', '.join(f'{name} {n}' for name, n in Counter(one.case.set_up for one in judged).items())}. "
        f"Seconds a case, making its set-up included: {sum(one.seconds for one in judged) / len(judged):.1f} on the "
        f"average, {slowest.seconds:.1f} at most ({slowest.case.name}).",
    ]
    return "\n".join(lines)


def passed(judged: Sequence[ScoredCase]) -> bool:
    """At least 95 % of the faults with the right id, and no error that is not true."""
    faults = [one for one in judged if one.case.expected]
    share = sum(one.verdict == "found" for one in faults) / max(len(faults), 1)
    return share >= TARGET and not any(one.false_errors for one in judged)
