"""Whether a cache holds the rows of a run; where it does not, what is different."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow, row_digest
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch

_SHOWN_IDS = 6  # on either side of the first difference


def require_stored(reader: CacheReader, rows: Sequence[EncodedRow], *, what: str) -> None:
    """Check that every row is in the cache with the same tokens and the same answer.

    Args:
        what: whose rows they are, for the message.
    Raises:
        CacheMismatch: some are not.
    """
    numbers = reader.find_many([row_digest(row.input_ids, row.answer_mask) for row in rows])
    absent = [row for row, number in zip(rows, numbers, strict=True) if number is None]
    if not absent:
        return
    stored: dict[str, int] = {}
    for number, key in enumerate(reader.keys()):
        stored.setdefault(key, number)
    other = [row for row in absent if row.key in stored]
    if other:
        (there,) = reader.read([stored[other[0].key]], [])
        raise CacheMismatch(
            f"{len(other)} of {len(rows)} {what} have other tokens in the cache.",
            where=f"{reader.location}, row with key {other[0].key}",
            facts=_difference(there, other[0]),
            fix="the usual causes are another template, another data.max_tokens and another tokenizer than the cache "
            "was built with: use its recipe, or build a cache with this one",
        )
    first = ", ".join(row.key for row in absent[:3])
    raise CacheMismatch(
        f"{len(absent)} of {len(rows)} {what} are not in the cache.",
        where=reader.location,
        facts=[f"the first: {first}", f"the cache: {len(reader)} rows of {reader.identity.source}"],
        fix="build a cache of all rows of this run",
    )


def _difference(there: CachedRow, here: EncodedRow) -> list[str]:
    shorter = min(len(there.input_ids), len(here.input_ids))
    differing = np.flatnonzero(there.input_ids[:shorter] != here.input_ids[:shorter])
    if not len(differing) and len(there.input_ids) == len(here.input_ids):
        first = int(np.flatnonzero(there.answer_mask != here.answer_mask)[0])
        return [
            f"the same {shorter} tokens, but another answer: they differ from token {first} on",
            f"the cache: {int(there.answer_mask.sum())} scored tokens",
            f"this run: {int(here.answer_mask.sum())} scored tokens",
        ]
    first = int(differing[0]) if len(differing) else shorter
    near = slice(max(0, first - _SHOWN_IDS), first + _SHOWN_IDS)
    return [
        f"they differ from token {first} on",
        f"the cache: {len(there.input_ids)} tokens, there {there.input_ids[near].tolist()}",
        f"this run: {len(here.input_ids)} tokens, there {here.input_ids[near].tolist()}",
    ]
