"""One row of a cache in memory, whatever it looks like on disk.

Shape letters: N scored positions, L tokens, K kept tokens, M distinct drawn tokens of all positions, P positions at
which states are stored (N or L), D width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TopK:
    """ids (N, K), likeliest first; logp (N, K), tail_logmass (N,), actual_logp (N,), natural logs."""

    ids: Ints
    logp: Floats
    tail_logmass: Floats
    actual_logp: Floats


@dataclass(frozen=True, eq=False)
class Sampled:
    """distinct (N,) how many ids each position has; ids (M,) and counts (M,) of all positions, one after another;
    entropy_estimate (N,) −mean log p of the draws."""

    distinct: Ints
    ids: Ints
    counts: Ints
    entropy_estimate: Floats

    def drawn(self) -> Ints:
        """(N, draws) an id as often as it was drawn."""
        return np.repeat(self.ids, self.counts).reshape(len(self.distinct), -1)


@dataclass(frozen=True, eq=False)
class States:
    """name -> (P, D) numbers. float32 or float16; bfloat16 stands as its uint16 bits; int8 is decoded to float32."""

    arrays: dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Text:
    """The teacher's answer. `finish`: stop (ended by itself) or length (cut at max_new_tokens)."""

    answer: str
    finish: Literal["stop", "length"]


Section = TopK | Sampled | States | Text


@dataclass(frozen=True, eq=False)
class CachedRow:
    """A row: the sequence that the teacher read, and what it said of it.

    Attributes:
        key: the row's name in its data set.
        input_ids: (L,).
        answer_mask: (L,) bool, True where a token is predicted; its logits stand one position before. Never at 0.
        sections: kind -> what is stored of it.
    """

    key: str
    input_ids: Ints
    answer_mask: npt.NDArray[np.bool_]
    sections: dict[str, Section] = field(default_factory=dict)


def row_digest(input_ids: npt.NDArray[np.integer], answer_mask: npt.NDArray[np.bool_]) -> bytes:
    """16 bytes by which a row is found: BLAKE2b over its length, its ids (int32, little-endian) and its mask.

    So a row is found by what the teacher read, and a row of other tokens cannot be taken for it.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(input_ids).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(input_ids, dtype="<i4").tobytes())
    digest.update(np.packbits(answer_mask, bitorder="little").tobytes())
    return digest.digest()
