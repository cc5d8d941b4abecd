"""Join the examples of several sources, in given shares or all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distillab.config.data import SourceConfig
from distillab.data.example_table import ExampleTable, Hashes, Indexes, Texts
from distillab.data.row_table import TableRows, occurrences
from distillab.data.store import fingerprint_of
from distillab.errors import DataError
from distillab.terminal import plural

_BLOCK = 1 << 16


def mixed(
    sources: Sequence[SourceConfig], read: Sequence[TableRows], weights: Sequence[float], *, seed: int
) -> TableRows:
    """Join the examples of sources, source by source, each in the order of its rows.

    With weights, as many as possible are taken in these shares without using one twice; which ones depends on the seed
    and their content, not on their order.

    Args:
        read: the examples of each source.
        weights: of each source; empty: all examples.
    Raises:
        DataError: sources of different kinds.
    """
    if len(read) == 1:
        return read[0]
    kinds = {one.shape.kind for one in read}
    if len(kinds) > 1:
        raise DataError(
            "The sources of the training rows are of different kinds.",
            facts=[f"{source.path}: {one.shape}" for source, one in zip(sources, read, strict=True)],
            fix="name the columns of each source: data.train: [{path: …, columns: {…}}, …]",
        )
    joined = _joined([one.examples for one in read])
    sizes = [len(one.examples) for one in read]
    numbers = shares(sizes, weights) if weights else sizes
    starts = np.cumsum([0, *sizes])
    chosen = [
        start + np.sort(seeded_order(one.examples.contents, seed)[:number])
        for start, number, one in zip(starts, numbers, read, strict=False)
    ]
    drawn = tuple(
        f"{number:,} of {plural(size, 'row')} of {source.path}"
        for number, size, source in zip(numbers, sizes, sources, strict=True)
    )
    skipped = tuple(problem for one in read for problem in one.skipped)
    return TableRows(joined.take(np.concatenate(chosen)), read[0].shape, skipped, drawn)


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many of each source are in the largest mixture of these shares; at least one.

    >>> shares([1000, 300], [1, 1]), shares([1000, 300], [3, 1])
    ([300, 300], [900, 300])
    """
    whole = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [min(size, max(1, round(whole * weight))) for size, weight in zip(sizes, weights, strict=True)]


def seeded_order(hashes: Hashes, seed: int) -> Indexes:
    """Return the places of hashes in the order of their SHA-256 with a seed."""
    ranks = np.empty((len(hashes), 4), ">u8")
    for start in range(0, len(hashes), _BLOCK):
        part = hashes[start : start + _BLOCK].tolist()
        digests = b"".join([hashlib.sha256(b"%d %016x" % (seed, number)).digest() for number in part])
        ranks[start : start + _BLOCK] = np.frombuffer(digests, ">u8").reshape(-1, 4)
    # lexsort takes the most significant key last
    return np.lexsort(ranks.T[::-1])


def _joined(tables: Sequence[ExampleTable]) -> ExampleTable:
    """Return the examples of whole tables as one table; equal rows of different tables get different keys."""
    entries = np.concatenate([table.entries for table in tables])
    before = np.cumsum([0, *(len(table.facts.places) for table in tables)])
    entries["place"] += np.repeat(before[:-1], [len(table) for table in tables]).astype(np.int32)
    entries["occurrence"] = occurrences(entries["row"], entries["answer"])
    settings = [fact for table in tables for fact in (table.facts.settings, len(table))]
    places = tuple(place for table in tables for place in table.facts.places)
    templates = tuple(one for table in tables for one in table.facts.templates or ("",) * len(table.facts.places))
    facts = replace(tables[0].facts, settings=fingerprint_of(settings), places=places, templates=templates)
    return ExampleTable(Texts([file for table in tables for file in table.texts.files]), entries, facts)
