"""Make the main table: a row for each baseline and arm, grouped by access to the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Literal

from distillab.records import ACCESS_ORDER, FAMILIES, AccessLevel, Interval
from distillab.report.columns import Column
from distillab.report.entries import ACCESS_MEANING, ON_POLICY, Entry, of_kind
from distillab.report.numbers import BROKEN, MISSING, Spread, count_range, fixed, signed

Tone = Literal["", "best", "missing", "broken", "good", "bad", "even"]


@dataclass(frozen=True)
class Cell:
    """One value: the figure, smaller lines under it, how it is marked."""

    main: str
    subs: tuple[str, ...] = ()
    tone: Tone = ""


@dataclass(frozen=True)
class Heading:
    """One column of the table. `better` in words, `arrow` as a sign."""

    key: str
    text: str
    unit: str
    arrow: str = ""
    better: str = ""


@dataclass(frozen=True)
class Row:
    """One baseline or arm."""

    entry: Entry
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    meaning: str
    rows: tuple[Row, ...]
    failures: bool = False


@dataclass(frozen=True)
class Table:
    """The main table and the notes that its signs need; `families` span the headings: (name, how many)."""

    headings: tuple[Heading, ...]
    families: tuple[tuple[str, int], ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def main_table(found: Sequence[Entry], columns: Sequence[Column], *, counts: bool = True) -> Table:
    """Return the table of all entries; beside the primary metric its difference from SFT.

    Args:
        counts: with the numbers of rows, generations and seeds.
    """
    best = {column.metric.name: _best_text(column, of_kind(found, "arm")) for column in columns}
    headings: list[Heading] = []
    for column in columns:
        headings.append(Heading(column.metric.name, column.metric.label, column.unit, column.arrow, column.better))
        if column.is_primary:
            headings.append(Heading("delta", "Δ to SFT", f"{column.unit} [95 %]", column.arrow, column.better))
    if counts:
        headings += [
            Heading("n", "rows scored", "n"),
            Heading("generations", "generations", "n"),
            Heading("seeds", "seeds", "n"),
        ]
    if not any(e.n("generations") for entry in found for e in entry.evaluations):
        headings = [heading for heading in headings if heading.key != "generations"]
    keys = [heading.key for heading in headings]

    def rows(chosen: Sequence[Entry]) -> tuple[Row, ...]:
        return tuple(Row(entry, tuple(_cell(key, entry, columns, best) for key in keys)) for entry in chosen)

    groups = [Group("Not trained here", "the student as it was given", rows(of_kind(found, "undistilled")))]
    for across, access, own in product((False, True), ACCESS_ORDER, (False, True)):
        level = (access, across, own)
        arms = [e for e in of_kind(found, "arm") if (e.access, e.across_tokenizers, e.on_policy) == level]
        groups.append(_access_group(access, rows(arms), across=across, on_policy=own))
    groups.append(Group("Teachers", "the models that were learnt from", rows(of_kind(found, "teacher"))))
    shown = rows(of_kind(found, "failure"))
    groups.append(Group("Shown failures", "not results: made to fail on purpose", shown, failures=True))
    kept = tuple(group for group in groups if group.rows)
    return Table(tuple(headings), _families(headings, columns), kept, _notes(found, kept, columns))


def _families(headings: Sequence[Heading], columns: Sequence[Column]) -> tuple[tuple[str, int], ...]:
    """Return what stands above the headings; the last are of no family."""
    family = {column.metric.name: column.metric.family for column in columns} | {"delta": "likelihood"}
    names = [FAMILIES[family[heading.key]] if heading.key in family else "" for heading in headings]
    return tuple((name, len(list(group))) for name, group in groupby(names))


def _access_group(access: AccessLevel, rows: tuple[Row, ...], *, across: bool, on_policy: bool) -> Group:
    title, meaning = f"Access: {access}", ACCESS_MEANING[access]
    if across:
        title, meaning = f"Across tokenizers, access: {access}", f"{meaning}, in other tokens"
    if on_policy:
        title, meaning = f"{title}, on-policy", f"{meaning}, {ON_POLICY}"
    return Group(title, meaning, rows)


def _best_text(column: Column, arms: Sequence[Entry]) -> str | None:
    """Return the best mean among the trained students as it is printed; None if there is no direction or no choice.

    Where all print the same figure, such as 0, none is the best.
    """
    spreads = [column.spread(arm.evaluations) for arm in arms]
    means = [found.mean for found in spreads if found is not None and math.isfinite(found.mean)]
    if column.metric.direction is None or len({fixed(mean, column.decimals) for mean in means}) < 2:
        return None
    return fixed(min(means) if column.metric.direction == "lower" else max(means), column.decimals)


def _cell(key: str, entry: Entry, columns: Sequence[Column], best: dict[str, str | None]) -> Cell:
    if key == "delta":
        return _delta_cell(entry)
    if key == "n":
        return Cell(count_range([e.n("held-out rows") for e in entry.evaluations]))
    if key == "generations":
        return Cell(count_range([n for e in entry.evaluations if (n := e.n("generations"))]))
    if key == "seeds":
        return Cell(str(len(entry.seeds))) if entry.seeds else Cell(MISSING, tone="missing")
    column = next(column for column in columns if column.metric.name == key)
    of_seeds = column.spread(entry.evaluations)
    if of_seeds is None:
        return Cell(MISSING, tone="missing")
    is_best = entry.kind == "arm" and fixed(of_seeds.mean, column.decimals) == best[key]
    return _spread_cell(of_seeds, column, is_best, entry)


def _spread_cell(of_seeds: Spread, column: Column, is_best: bool, entry: Entry) -> Cell:
    main = fixed(of_seeds.mean, column.decimals)
    if main == BROKEN:
        return Cell(main, tone="broken")
    subs = [] if of_seeds.sd is None else [f"± {fixed(of_seeds.sd, column.decimals)}"]
    if of_seeds.missing:
        subs.append(f"{of_seeds.n} of {of_seeds.n + of_seeds.missing} seeds")
    if column.is_primary and not entry.comparable:
        main += " †"
    return Cell(main, tuple(subs), "best" if is_best else "")


def _delta_cell(entry: Entry) -> Cell:
    if entry.method == "sft" and entry.against_sft is None and entry.kind == "arm":
        return Cell("SFT itself", tone="even")
    if entry.against_sft is None:
        return Cell(MISSING, tone="missing")
    interval = entry.against_sft
    on = (interval.measured_on,) if interval.measured_on else ()
    if interval.low is None or interval.high is None:
        return Cell(signed(interval.mean), ("too few rows for an interval", *on), "even")
    if not all(math.isfinite(value) for value in (interval.mean, interval.low, interval.high)):
        return Cell(BROKEN, tone="broken")
    tone = interval_tone(interval)
    word = {"good": "better", "bad": "worse", "even": "not significant"}[tone]
    return Cell(signed(interval.mean), (f"[{signed(interval.low)}, {signed(interval.high)}]", *on, word), tone)


def interval_tone(interval: Interval) -> Literal["good", "bad", "even"]:
    """Return the tone of `Interval.outcome`: good is better than SFT, bad worse, even not significant."""
    tones: dict[str, Literal["good", "bad", "even"]] = {"better": "good", "worse": "bad", "open": "even"}
    return tones[interval.outcome]


def _notes(found: Sequence[Entry], groups: Sequence[Group], columns: Sequence[Column]) -> tuple[str, ...]:
    cells = [cell for group in groups for row in group.rows for cell in row.cells]
    notes = ["± is the standard deviation over seeds. ↓ lower is better, ↑ higher is better."]
    if any(cell.tone == "best" for cell in cells):
        notes.append("Bold: the best mean among the trained students; read it together with its spread.")
    if any(not entry.comparable for entry in found):
        notes.append(
            "† in the tokens of another tokenizer, so not comparable with the other rows: compare bits/byte instead."
        )
    if any(cell.tone == "missing" for cell in cells):
        notes.append(_missing(found, columns))
    if any(cell.tone == "broken" for cell in cells):
        notes.append("“not finite”: the record holds NaN or infinity there; such values are not drawn in the figures.")
    notes += [f"{entry.name}: {entry.note}" for entry in found if entry.note]
    return tuple(notes)


def _missing(found: Sequence[Entry], columns: Sequence[Column]) -> str:
    """Return the meaning of a dash, with the records' reasons."""
    labels: dict[str, list[str]] = {}
    for metric in (metric for entry in found for e in entry.evaluations for metric in e.metrics):
        if metric.missing is not None and any(metric.name == column.metric.name for column in columns):
            labels.setdefault(metric.missing, []).append(metric.label)
    reasons = "; ".join(f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in labels.items())
    return f"– not measured, or not defined for this model{f' ({reasons})' if reasons else ''}."
