"""Are the labels the tokens of the same row, and where they belong?"""

from __future__ import annotations

from collections.abc import Sequence

from distillab.doctor.batch.label_offset import Placement
from distillab.doctor.batch.rows import BatchRow
from distillab.doctor.batch.show import token_names
from distillab.doctor.batch.tokens import TokenFacts
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.records import Finding

_SHOWN = 6
_FEW_TOKENS = 8
_MOVED = ("ahead", "in_place", "behind", "far", "other_row")


@check("labels")
def check_labels(rows: Sequence[BatchRow], placed: Sequence[Placement], facts: TokenFacts) -> Checked:
    """Compare the labels of rows with the inputs; the placements are in the same order."""
    compared = sum(placement.compared for placement in placed)
    yield Scope(f"{len(rows):,} rows, {compared:,} labels compared with the inputs")
    if not compared:
        raise Skipped("no label is scored")
    denoising = [number for number, placement in enumerate(placed) if placement.kind == "denoising"]
    if denoising:
        evidence, example = _evidence(rows, placed, denoising, facts)
        mostly = "the inputs that differ from their labels are mostly the same token"
        yield from_page("labels-not-inputs", *evidence, mostly, case="masked", example=example)
        return
    groups: dict[str, list[int]] = {}
    for number, placement in enumerate(placed):
        groups.setdefault(_group(placement, facts.told.offset), []).append(number)
    _join_moved(groups)
    unplaced = _explained_by_moved(groups)
    for group, numbers in groups.items():
        if group == "good" or group in unplaced:
            continue
        evidence, example = _evidence(rows, placed, numbers, facts)
        if unplaced and group in _MOVED:
            more = sum(len(groups[name]) for name in unplaced)
            evidence += (f"{more:,} further rows whose labels are not the inputs either, at no known offset",)
        yield _finding(group, [placed[number] for number in numbers], facts, evidence, example)


def _group(placement: Placement, expected: int) -> str:
    if placement.kind in ("agrees", "nothing_scored", "denoising"):
        return "good"
    if placement.kind != "moved":
        return placement.kind
    if placement.offset == expected + 1:
        return "ahead"
    if placement.offset == 0:
        return "in_place"
    if placement.offset == -1:
        return "behind"
    return "far"


def _join_moved(groups: dict[str, list[int]]) -> None:
    """Where most moved rows are moved by other numbers, one that is moved by a common number is so by accident."""
    near = [group for group in ("ahead", "in_place", "behind") if group in groups]
    if len(groups.get("far", ())) > sum(len(groups[group]) for group in near):
        groups["far"] = sorted([*groups["far"], *(number for group in near for number in groups.pop(group))])


def _explained_by_moved(groups: dict[str, list[int]]) -> frozenset[str]:
    """Groups of rows that cannot be placed, in a batch whose other rows show where labels went: that explains them."""
    moved = sum(len(numbers) for group, numbers in groups.items() if group in _MOVED)
    lost = {group: numbers for group, numbers in groups.items() if group in ("unrelated", "partly")}
    return frozenset(lost) if moved > sum(map(len, lost.values())) else frozenset()


def _evidence(
    rows: Sequence[BatchRow], placed: Sequence[Placement], numbers: Sequence[int], facts: TokenFacts
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    chosen = [placed[number] for number in numbers]
    total = sum(placement.compared for placement in chosen)
    equal = sum(round(placement.agreement * placement.compared) for placement in chosen)
    evidence = [
        f"{len(numbers):,} of {len(rows):,} rows",
        f"labels that equal the input token at the expected position: {equal:,} of {total:,} ({equal / total:.1%})",
    ]
    offsets = sorted({placement.offset for placement in chosen if placement.kind == "moved"})
    if offsets:
        listed = ", ".join(f"{offset:+d}" for offset in offsets[:6]) + (", …" if len(offsets) > 6 else "")
        evidence.append(f"labels at position t are the inputs at position t{listed}")
    row, placement = rows[numbers[0]], chosen[0]
    if placement.other is not None:
        evidence.append(f"the labels of {row.origin} are the inputs of {rows[placement.other].origin}")
    places, expected = facts.scored(row.labels), facts.told.offset
    wrong = places[places + expected < len(row.ids)]
    wrong = wrong[row.labels[wrong] != row.ids[wrong + expected]][:_SHOWN]
    inputs, labels = token_names(row.ids[wrong], facts), token_names(row.labels[wrong], facts)
    example = [f"{row.origin}:"]
    example += [
        f"  position {at}: input {one!r}, label {two!r}"
        for at, one, two in zip(wrong.tolist(), inputs, labels, strict=True)
    ]
    example.append(f"  the scored labels read: {facts.text(row.labels[places])[:200]!r}")
    example.append(f"  the inputs there read:  {facts.text(row.ids[places])[:200]!r}")
    return tuple(evidence), tuple(example)


def _finding(
    group: str, placed: Sequence[Placement], facts: TokenFacts, evidence: tuple[str, ...], example: tuple[str, ...]
) -> Finding:
    if group == "ahead":
        unknown = "whether the model or the loss shifts them later is not known (--shifts)"
        known = facts.told.shifts is not None
        return from_page("labels-shifted-twice", *evidence, None if known else unknown, example=example)
    if group == "in_place":
        return from_page("labels-not-shifted", *evidence, example=example)
    if group == "behind":
        return from_page(
            "labels-shifted-wrong-way",
            *evidence,
            case="shifted by the model" if facts.told.offset else "shifted in the batch",
            example=example,
        )
    if group == "far":
        return from_page("labels-misaligned", *evidence, example=example)
    if group == "other_row":
        return from_page("labels-of-other-rows", *evidence, example=example)
    total = sum(placement.compared for placement in placed)
    agreement = sum(placement.agreement * placement.compared for placement in placed) / total
    if group == "unrelated" and agreement <= 0.2 and total >= _FEW_TOKENS:
        return from_page(
            "answer-at-prompt-positions",
            *evidence,
            "no shift of the labels makes them the inputs",
            severity="warning" if facts.for_encoders else "error",
            example=example,
        )
    return from_page("labels-not-inputs", *evidence, case="changed", example=example)
