"""Join the ids of many rows into flat arrays, and cut each row at the longest length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distillab.data.border import Ids


class Joined(NamedTuple):
    """The ids of a sequence in parts, whether each is supervised, and before which token each answer begins."""

    parts: list[Ids]
    supervised: list[bool]
    starts: list[int]


@dataclass(frozen=True, eq=False)
class FlatRows:
    """Rows that have a supervised token, cut, one after the other.

    Attributes:
        kept: their places among all rows.
        input_ids, answer_mask: (T,) of all their tokens.
        tokens, prompt_length, truncated: (N,), see `EncodedRow`.
    """

    kept: list[int]
    input_ids: npt.NDArray[np.int32]
    answer_mask: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int64]
    prompt_length: list[int]
    truncated: npt.NDArray[Any]


def flat_rows(rows: Sequence[Joined], max_tokens: int) -> FlatRows:
    """Cut rows at `max_tokens` and join those in which a token is supervised; the first of a row never is."""
    parts = [part for row in rows for part in row.parts]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    row_of_part = np.repeat(np.arange(len(rows)), [len(row.parts) for row in rows])
    tokens = np.bincount(row_of_part, lengths, minlength=len(rows)).astype(np.int64)
    ids = np.frombuffer(b"".join(parts), dtype=np.int32)
    mask = np.repeat([supervised for row in rows for supervised in row.supervised], lengths)
    first = np.cumsum(tokens) - tokens
    mask[first[tokens > 0]] = False  # nothing predicts it
    room = np.minimum(tokens, max_tokens)
    fits = np.arange(len(ids)) - np.repeat(first, tokens) < max_tokens
    scored = np.bincount(np.repeat(np.arange(len(rows)), tokens)[fits & mask], minlength=len(rows)) > 0
    fits &= np.repeat(scored, tokens)
    kept: list[int] = np.flatnonzero(scored).tolist()
    begun = [[start for start in rows[at].starts if start < room[at]] for at in kept]
    prompts = [starts[-1] if starts else int(room[at]) for at, starts in zip(kept, begun, strict=True)]
    return FlatRows(kept, ids[fits], mask[fits], room[kept], prompts, tokens[kept] > room[kept])
