"""One row of a cache in memory, independent of its form on disk.

Shape letter: L tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from distillab.cache.layout import Ints, Section


@dataclass(frozen=True, eq=False)
class CachedRow:
    """A row: the sequence that the teacher read, and its stored signal.

    Attributes:
        key: the row's name in its data set.
        input_ids: (L,).
        answer_mask: (L,) bool, True where a token is predicted, by the logits one position before. Never at 0.
        sections: kind -> what is stored of it.
    """

    key: str
    input_ids: Ints
    answer_mask: npt.NDArray[np.bool_]
    sections: Mapping[str, Section] = field(default_factory=dict)


def row_digest(input_ids: npt.NDArray[np.integer], answer_mask: npt.NDArray[np.bool_]) -> bytes:
    """Return 16 bytes by which a row is found: BLAKE2b over its length, its ids (int32, little-endian) and its mask.

    So a row is found by the tokens that the teacher read, and never taken for a row of other tokens.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(input_ids).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(input_ids, dtype="<i4").tobytes())
    digest.update(np.packbits(answer_mask, bitorder="little").tobytes())
    return digest.digest()
