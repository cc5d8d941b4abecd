"""Pack the rows of a microbatch into as few and as short sequences as possible."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.errors import DataError


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the indices of the rows of each sequence.

    First fit decreasing, which needs at most 11/9 of the fewest sequences, plus one; then again with the smallest
    capacity that keeps the number of sequences.

    Args:
        lengths: tokens of each row.
        capacity: most tokens of a sequence.
    Returns:
        Every index once; indices ascend in a sequence, and sequences ascend by their first index.
    Raises:
        DataError: a row is longer than the capacity.
    """
    longest = max(lengths, default=0)
    if longest > capacity:
        raise DataError(
            "A row is longer than a packed sequence.",
            facts=[f"row: {longest} tokens", f"sequence: at most {capacity}"],
        )
    found = _first_fit_decreasing(lengths, capacity)
    if not found:
        return []
    # no sequence can be shorter than the longest row, nor all of them shorter than their mean
    low, high = max(longest, -(-sum(lengths) // len(found))), capacity
    while low < high:
        middle = (low + high) // 2
        tried = _first_fit_decreasing(lengths, middle)
        if len(tried) <= len(found):
            found, high = tried, middle
        else:
            low = middle + 1
    return sorted(sorted(places) for places in found)


def _first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    sequences: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        number = next((number for number, left in enumerate(room) if lengths[place] <= left), len(sequences))
        if number == len(sequences):
            sequences.append([])
            room.append(capacity)
        sequences[number].append(place)
        room[number] -= lengths[place]
    return sequences
