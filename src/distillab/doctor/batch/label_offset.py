"""Where the labels of a row stand: in place, moved by some positions, or of another text altogether."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.rows import BatchRow, Ints
from distillab.doctor.batch.tokens import TokenFacts, text_range

Kind = Literal["nothing_scored", "agrees", "moved", "other_row", "unrelated", "partly", "denoising"]

# A label or two may differ for good reasons (an end token over the first padding); a moved row agrees nowhere.
_AGREES, _MOVED, _UNRELATED = 0.995, 0.95, 0.5
_FEWEST = 4
_ANCHORS, _CANDIDATES = 24, 8


@dataclass(frozen=True, eq=False)
class Placement:
    """How the labels of a row lie to its ids.

    Attributes:
        kind: see the module; denoising: the inputs at the scored positions are one and the same id.
        offset: labels at t are the ids at t + offset (where kind is agrees, moved or partly).
        agreement: share of the compared labels that equal the id at the expected offset.
        compared: labels that were compared.
        other: which row's ids the labels are (where kind is other_row).
    """

    kind: Kind
    offset: int
    agreement: float
    compared: int
    other: int | None = None


@dataclass(frozen=True, eq=False)
class PlacedRow:
    """A row with its labels where they are meant: `scored[t]`: the token at t is learned.

    Attributes:
        row: as it was given.
        ids: (T,) the tokens; with labels that arrive shifted, the last label behind them.
        scored: (T,) bool; the first token of a row has nothing before it and is never scored.
        targets: (T,) the label of every scored token, which is the token itself wherever labels agree; 0 elsewhere.
        attention: (T,) as given, or None.
        start, stop: the text, half open; the rest is padding.
    """

    row: BatchRow
    ids: Ints
    scored: NDArray[np.bool_]
    targets: Ints
    attention: Ints | None
    start: int
    stop: int

    @property
    def padding(self) -> NDArray[np.bool_]:
        """(T,) bool: outside of the text."""
        place = np.arange(len(self.ids))
        return (place < self.start) | (place >= self.stop)

    @property
    def scored_places(self) -> Ints:
        """Positions of the scored tokens, ascending."""
        return np.flatnonzero(self.scored)

    @property
    def whole(self) -> bool:
        """Every token of the text but the first is scored."""
        return self.stop - self.start > 1 and bool(self.scored[self.start + 1 : self.stop].all())

    @property
    def read_from(self) -> int:
        """The first position of the text that the attention mask shows; positions before it are not read."""
        shown = range(0) if self.attention is None else np.flatnonzero(self.attention[self.start : self.stop])
        return self.start + (int(shown[0]) if len(shown) else 0)

    @property
    def full(self) -> bool:
        """The text reaches the end of a row than which none of its batch is longer."""
        return self.row.fills and self.start == 0 and self.stop >= len(self.row.ids)


def placements(rows: Sequence[BatchRow], facts: TokenFacts) -> tuple[Placement, ...]:
    """The placement of every row."""
    found = []
    for number, row in enumerate(rows):
        placement = _expected(row, facts)
        if placement.kind in ("unrelated", "partly"):
            placement = _moved(row, placement, facts)
        if placement.kind == "unrelated":
            placement = _other_row(rows, number, placement, facts)
        if placement.kind in ("unrelated", "partly") and _denoised(row, facts):
            placement = replace(placement, kind="denoising")
        found.append(placement)
    return tuple(_settled(rows, _end_together(rows, found, facts), facts))


def place(row: BatchRow, placement: Placement, facts: TokenFacts) -> PlacedRow:
    """The row with its labels moved to where they are meant."""
    length, offset = len(row.ids), placement.offset
    ids, attention = row.ids, row.attention
    ignored = facts.told.ignore_index
    last = int(row.labels[-1]) if length else ignored
    # a rolled label comes from the row's beginning and is no further token
    if offset == 1 and last != ignored and last not in facts.begins and last != int(ids[0]):
        ids = np.append(ids, last)
        attention = None if attention is None else np.append(attention, attention[-1])
    places = facts.scored(row.labels) + offset
    scored = np.zeros(len(ids), dtype=np.bool_)
    places = places[(places >= 1) & (places < len(ids))]
    if placement.kind == "moved" and offset not in (0, 1):
        # where the text was cut, labels are left over that stand over the padding by accident
        places = places[row.labels[places - offset] == ids[places]]
    scored[places] = True
    targets = np.zeros(len(ids), dtype=np.int64)
    targets[places] = row.labels[places - offset]
    start, stop = text_range(ids, attention, facts)
    return PlacedRow(row, ids, scored, targets, attention, start, stop)


def _agreement(row: BatchRow, places: Ints, offset: int) -> tuple[float, int]:
    """Share of the labels at `places` that are the id `offset` further on, and how many could be compared."""
    at = places[(places + offset >= 0) & (places + offset < len(row.ids))]
    if not len(at):
        return 0.0, 0
    return float((row.labels[at] == row.ids[at + offset]).mean()), len(at)


def _expected(row: BatchRow, facts: TokenFacts) -> Placement:
    places, expected = facts.scored(row.labels), facts.told.offset
    if not len(places):
        return Placement("nothing_scored", expected, 1.0, 0)
    # an end token as the label of the first padding is right, though the input there is the padding token
    inside = _into_text(row, places, expected, facts)
    # two texts that begin with the same begin token are no likelier to be one
    without_begins = inside[~np.isin(row.labels[inside], facts.begins)]
    inside = without_begins if len(without_begins) else inside
    share, compared = _agreement(row, inside if len(inside) else places, expected)
    if not compared:
        return Placement("nothing_scored", expected, 1.0, 0)
    kind: Kind = "agrees" if share >= _AGREES else "partly" if share >= _UNRELATED else "unrelated"
    return Placement(kind, expected, share, compared)


def _offsets(row: BatchRow, places: Ints, expected: int, *, far: bool) -> list[int]:
    """Offsets worth a look, nearest first: two to either side, and where the rarest labels stand among the ids."""
    near = [expected + step for step in (1, -1, 2, -2)]
    if not far:
        return near
    values, counts = np.unique(row.ids, return_counts=True)
    often = dict(zip(values.tolist(), counts.tolist(), strict=True))
    anchors = [at for at in places.tolist() if int(row.labels[at]) in often]
    votes: Counter[int] = Counter()
    for at in sorted(anchors, key=lambda at: often[int(row.labels[at])])[:_ANCHORS]:
        votes.update((np.flatnonzero(row.ids == row.labels[at]) - at).tolist())
    common = [offset for offset, _ in votes.most_common(_CANDIDATES)]
    return sorted({*near, *common} - {expected}, key=lambda offset: (abs(offset - expected), offset < expected))


def _into_text(row: BatchRow, places: Ints, offset: int, facts: TokenFacts) -> Ints:
    """The places whose label, moved by `offset`, lies in the text: what was cut off cannot be compared."""
    start, stop = text_range(row.ids, row.attention, facts)
    return places[(places + offset >= start) & (places + offset < stop)]


def _moved(row: BatchRow, before: Placement, facts: TokenFacts) -> Placement:
    places = facts.scored(row.labels)
    if len(places) < _FEWEST or len(np.unique(row.labels[places])) < _FEWEST:
        return before
    for offset in _offsets(row, places, before.offset, far=before.kind == "unrelated"):
        share, compared = _agreement(row, _into_text(row, places, offset, facts), offset)
        if share >= max(_MOVED, before.agreement) and compared >= max(_FEWEST, len(places) // 2):
            return replace(before, kind="moved", offset=offset)
    return before


def _end_together(rows: Sequence[BatchRow], found: Sequence[Placement], facts: TokenFacts) -> list[Placement]:
    """Rows with few labels, padded on two sides: the last label is the last token of the text, in nearly all of them.

    A row alone could be so by accident; together they could not.
    """
    moved: dict[int, Placement] = {}
    labels = judged = 0
    for number, (row, placement) in enumerate(zip(rows, found, strict=True)):
        places = facts.scored(row.labels)
        labels += placement.compared if placement.kind == "moved" else 0
        if placement.kind not in ("unrelated", "partly") or not len(places):
            continue
        judged += 1
        offset = text_range(row.ids, row.attention, facts)[1] - 1 - int(places[-1])
        share, compared = _agreement(row, places, offset)
        if offset and share >= _MOVED and compared == len(places):
            moved[number] = replace(placement, kind="moved", offset=offset)
            labels += compared
    certain = len(moved) >= max(2, 0.9 * judged) and labels >= 2 * _FEWEST
    return [moved.get(number, placement) if certain else placement for number, placement in enumerate(found)]


def _settled(rows: Sequence[BatchRow], found: Sequence[Placement], facts: TokenFacts) -> Iterator[Placement]:
    """Rows with too few labels to be judged alone go with the others, where they agree with them."""
    offsets = [placement.offset for placement in found if placement.kind == "moved"]
    common = max(set(offsets), key=offsets.count, default=facts.told.offset)
    for row, placement in zip(rows, found, strict=True):
        if placement.kind in ("unrelated", "partly") and offsets:
            places = facts.scored(row.labels)
            share, compared = _agreement(row, _into_text(row, places, common, facts), common)
            if compared and share >= _MOVED:
                placement = replace(placement, kind="moved", offset=common)
            elif 2 * len(offsets) > sum(other.kind not in ("agrees", "nothing_scored") for other in found):
                # what agrees in such a batch does so by accident, and nothing can be read off it
                placement = replace(placement, kind="unrelated")
        yield placement


def _other_row(rows: Sequence[BatchRow], number: int, before: Placement, facts: TokenFacts) -> Placement:
    row, places, expected = rows[number], facts.scored(rows[number].labels), facts.told.offset
    if len(places) < _FEWEST:
        return before
    for other, candidate in enumerate(rows):
        at = places[places + expected < len(candidate.ids)]
        if other == number or len(at) < max(_FEWEST, len(places) // 2):
            continue
        if float((row.labels[at] == candidate.ids[at + expected]).mean()) >= _MOVED:
            return replace(before, kind="other_row", other=other)
    return before


def _denoised(row: BatchRow, facts: TokenFacts) -> bool:
    """Whether the inputs that differ from their labels are a mask token: then the model fills in, and is not causal."""
    places, offset = facts.scored(row.labels), facts.told.offset
    places = places[places + offset < len(row.ids)]
    inputs = row.ids[places + offset]
    inputs = inputs[inputs != row.labels[places]]
    if not len(inputs):
        return False
    values, counts = np.unique(inputs, return_counts=True)
    common = int(values[counts.argmax()])
    padding = common in facts.ends or common in (facts.pad, facts.bos)
    # in a text no single id stands at nine of ten positions
    return not padding and len(inputs) >= _FEWEST and counts.max() >= 0.75 * len(inputs)
