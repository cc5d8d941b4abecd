"""Write the comparison of two studies: comparison.html and comparison.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillab.files import write_text
from distillab.records import FAMILIES, ComparedFigure, StudyComparison
from distillab.report.build import render
from distillab.report.columns import PRINTED
from distillab.report.numbers import MISSING, fixed, signed
from distillab.report.sections import Grid
from distillab.report.table import interval_tone
from distillab.terminal import plural

_WORD = {"good": "better", "bad": "worse", "even": "not significant"}


@dataclass(frozen=True)
class ComparisonPage:
    """All that the page shows, in its order."""

    first: str
    second: str
    titles: tuple[str, str]
    summary: str
    differs: Grid | None
    arms: Grid
    notes: tuple[str, ...]


def write_comparison(found: StudyComparison, folder: Path) -> tuple[Path, Path]:
    """Write comparison.md and comparison.html, each atomically, and return their paths.

    Args:
        folder: where the two files go; created if it is missing.
    """
    page = comparison_page(found)
    paths = folder / "comparison.md", folder / "comparison.html"
    for path in paths:
        write_text(path, render(f"{path.name}.j2", page))
    return paths


def comparison_page(found: StudyComparison) -> ComparisonPage:
    """Return the page of a comparison."""
    rows = [
        (arm.name, FAMILIES[one.family], *_cells(one), _difference(one)) for arm in found.arms for one in arm.figures
    ]
    notes = [f"{arm.name}: no interval, {arm.no_interval}." for arm in found.arms if arm.no_interval]
    for which, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            notes.append(f"Only in the {which} study: {', '.join(names)}.")
    differs = Grid("What differs between the two studies", ("what", "first", "second"), found.differs)
    return ComparisonPage(
        first=found.first,
        second=found.second,
        titles=found.titles,
        summary=summary(found),
        differs=differs if found.differs else None,
        arms=Grid(
            "The same arms in both studies, means over seeds",
            ("arm", "what", "first", "second", "second − first, 95 % interval"),
            tuple(rows),
            "Paired over seeds and rows where both studies have the same; each interval is of one comparison alone.",
        ),
        notes=tuple(notes),
    )


def summary(found: StudyComparison) -> str:
    """Return in one sentence how many arms are better, worse or open in the second study, by their likelihood."""
    compared = [one for arm in found.arms for one in arm.figures if one.family == "likelihood"]
    known = [interval_tone(one.difference) for one in compared if one.difference is not None]
    if not found.arms:
        return "The two studies have no arm in common."
    if not known:
        return "The two studies cannot be compared with intervals: their seeds or held-out rows differ."
    counts = [f"{known.count(tone)} {word}" for tone, word in (("good", "better"), ("bad", "worse")) if tone in known]
    even = known.count("even")
    return (
        f"On the data set’s answers, of {plural(len(known), 'arm')} that can be compared, in the second study: "
        f"{', '.join([*counts, *([f'{even} not significantly different'] if even else [])])}."
    )


def _cells(one: ComparedFigure) -> tuple[str, str]:
    unit, scale, decimals = PRINTED.get(one.unit, (one.unit, 1.0, 3))

    def cell(value: float | None) -> str:
        return MISSING if value is None else f"{one.label} {fixed(value * scale, decimals)} {unit}"

    return cell(one.first), cell(one.second)


def _difference(one: ComparedFigure) -> str:
    _, scale, decimals = PRINTED.get(one.unit, (one.unit, 1.0, 3))
    gap = one.difference
    if gap is None:
        return MISSING
    if gap.low is None or gap.high is None:
        return f"{signed(gap.mean * scale, decimals)}, too few rows for an interval"
    ends = f"[{signed(gap.low * scale, decimals)}, {signed(gap.high * scale, decimals)}]"
    return f"{signed(gap.mean * scale, decimals)} {ends}, {_WORD[interval_tone(gap)]}"
