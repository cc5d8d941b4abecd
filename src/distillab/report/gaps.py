"""How far each arm has gone from SFT to its teacher, by every family, and what the teacher gave for it."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.records import FAMILIES, Comparison, ServedCost
from distillab.report.columns import PRINTED
from distillab.report.entries import Entry
from distillab.report.numbers import MISSING, count, duration, signed, size
from distillab.report.sections import Grid
from distillab.report.table import interval_tone

_WORD = {"good": "better", "bad": "worse", "even": "not significant"}


def gaps(found: Sequence[Entry]) -> Grid | None:
    """Return each arm's difference from SFT and its share of the gap to the teacher; None where nothing is compared."""
    arms = [entry for entry in found if entry.kind == "arm" and entry.comparisons]
    if not arms:
        return None
    every = [one for entry in arms for one in entry.comparisons]
    topics = list(dict.fromkeys(one.topic for one in sorted(every, key=lambda one: list(FAMILIES).index(one.family))))
    headings = [text for topic in topics for text in (f"{topic}: Δ to SFT", "of the gap closed")]
    rows = tuple((entry.name, *(cell for topic in topics for cell in _cells(_by(entry, topic)))) for entry in arms)
    reasons: dict[str, list[str]] = {}
    for entry in arms:
        for one in entry.comparisons:
            if one.undefined is not None:
                reasons.setdefault(f"{one.topic}: {one.undefined}", []).append(entry.name)
    missing = "".join(f" {', '.join(names)}, {reason}." for reason, names in reasons.items())
    return Grid(
        "From SFT to the teacher: differences and shares of the gap, with their 95 % intervals",
        ("arm", *headings),
        rows,
        "SFT is 0 %, the teacher 100 %; a negative share is further from it than SFT. A dash: not measured of both, or "
        f"no gap to close.{missing}",
    )


def _by(entry: Entry, topic: str) -> Comparison | None:
    return next((one for one in entry.comparisons if one.topic == topic), None)


def _cells(one: Comparison | None) -> tuple[str, str]:
    if one is None:
        return MISSING, MISSING
    share = one.recovered
    if share is None:
        return difference(one), MISSING
    low, high = (signed(end * 100, 0) for end in (share.low, share.high))
    return difference(one), f"{signed(share.share * 100, 0)} % [{low}, {high}]"


def difference(one: Comparison) -> str:
    """Return `KL from teacher −0.120 nats/token [−0.150, −0.090], better`."""
    unit, scale, decimals = PRINTED.get(one.unit, (one.unit, 1.0, 3))
    gap = one.difference
    text = f"{signed(gap.mean * scale, decimals)} {unit}"
    if gap.low is None or gap.high is None:
        text += ", too few rows for an interval"
    else:
        ends = f"{signed(gap.low * scale, decimals)}, {signed(gap.high * scale, decimals)}"
        text += f" [{ends}], {_WORD[interval_tone(gap)]}"
    return f"{one.label} {text}"


def teacher_costs(found: Sequence[Entry]) -> Grid | None:
    """Return what each arm took from its teacher, and what servers were asked for; None where nothing was taken."""
    arms = [(entry, entry.teacher_cost) for entry in found if entry.teacher_cost is not None]
    rows = [
        (
            entry.marked_name,
            entry.teacher or MISSING,
            count(cost.read_tokens),
            count(cost.generated_tokens),
            MISSING if cost.seconds is None else duration(cost.seconds),
            MISSING if cost.stored_bytes is None else size(cost.stored_bytes),
            *_asked(cost.served),
        )
        for entry, cost in arms
        if cost.read_tokens
    ]
    teachers = [(entry.name, entry.served) for entry in found if entry.served is not None]
    rows += [(f"evaluation of {name}", name, *[MISSING] * 4, *_asked(cost)) for name, cost in teachers]
    if not rows:
        return None
    headings = ("arm", "teacher", "tokens it read", "tokens it generated", "time", "stored signals", *_ASKED)
    is_served = any(cell != MISSING for row in rows for cell in row[-len(_ASKED) :])
    columns = len(headings) if is_served else -len(_ASKED)
    text = (
        "For the training of all runs of the arm; what they share is counted once, and arms that share it have it "
        "each. Time: to correct the teacher, generate answers and store signals; what a teacher reads at every step is "
        "in the runs’ own time. The forward passes of a teacher in this process in the evaluation are not counted."
    )
    if is_served:
        text += (
            " Asked of its server: as the server counts; some forms of API read a row several times to score it, and "
            "count a scored token as generated. Money: by the prices in the recipe."
        )
    return Grid(
        "The cost of the teachers: what each arm took", headings[:columns], tuple(row[:columns] for row in rows), text
    )


_ASKED = ("requests to its server", "prompt tokens (cached)", "completion tokens", "seconds", "money")


def _asked(cost: ServedCost | None) -> tuple[str, ...]:
    if cost is None:
        return (MISSING,) * len(_ASKED)
    return (
        count(cost.requests),
        f"{count(cost.prompt_tokens)} ({count(cost.cached_tokens)})",
        count(cost.completion_tokens),
        f"{cost.seconds:.0f}",
        MISSING if cost.money is None else f"{cost.money:.4g}",
    )
