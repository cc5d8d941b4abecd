"""Split a batch into samples, and check that a cache holds the rows of a run.

Shape letters: B sequences, L positions of a sequence, or tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distillab.cache.reader import CacheReader
from distillab.cache.rows import CachedRow, row_digest
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch
from distillab.models.batch import TokenBatch
from distillab.models.visibility import sample_numbers

_SHOWN_IDS = 6  # before and after the first difference


@dataclass(frozen=True, eq=False)
class Sample:
    """One row of a batch.

    Attributes:
        row: its index in its split.
        input_ids: (L,) its tokens, without padding.
        answer_mask: (L,) bool, True where a token is predicted.
    """

    row: int
    input_ids: npt.NDArray[np.int64]
    answer_mask: npt.NDArray[np.bool_]


def samples(batch: TokenBatch) -> list[Sample]:
    """Return every sample of a batch: sequence by sequence, and in their order within one.

    The scored positions and the tokens of a batch are flattened in the same order (`models.scoring`).
    """
    number_BL = sample_numbers(batch).cpu().numpy()
    size, length = number_BL.shape
    # numbered through the batch: a sequence has no more samples than positions
    number = (number_BL + length * np.arange(size)[:, None])[number_BL >= 0]
    cuts = np.flatnonzero(np.diff(number)) + 1
    parts = [np.split(batch[name].cpu().numpy()[number_BL >= 0], cuts) for name in ("rows", "input_ids", "answer_mask")]
    return [Sample(int(row[0]), ids, mask) for row, ids, mask in zip(*parts, strict=True) if len(row)]


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
