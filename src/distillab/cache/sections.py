"""A section of a row to bytes and back: one record a row and kind; the records of many rows are decoded together.

FORMAT.md, *Records*, is the specification. N scored positions, L tokens, P positions with states.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from distillab.cache.layout import Layout, SampledLayout, StatesLayout, TextLayout, TokensLayout, TopKLayout
from distillab.cache.rows import Ints, Sampled, Section, States, Text, TopK
from distillab.cache.scored import decode_sampled, decode_top_k, encode_sampled, encode_top_k
from distillab.cache.states import decode_states, encode_states
from distillab.cache.streams import Cursor, Stored, packed
from distillab.errors import CacheCorrupt, ShapeError


def encode(section: Section, layout: Layout) -> bytes:
    """The record of one row.

    Args:
        section: of one row.
        layout: of the same kind; the tokens have `encode_tokens`.
    Raises:
        ShapeError: the section is of another kind or shape than the layout.
        NumericsError: the teacher's numbers are not finite, or no distribution.
        CacheMismatch: an id does not fit into the layout's bits.
    """
    if isinstance(section, TopK) and isinstance(layout, TopKLayout):
        return encode_top_k(section, layout)
    if isinstance(section, Sampled) and isinstance(layout, SampledLayout):
        return encode_sampled(section, layout)
    if isinstance(section, States) and isinstance(layout, StatesLayout):
        return encode_states(section, layout)
    if isinstance(section, Text) and isinstance(layout, TextLayout):
        return (b"s" if section.finish == "stop" else b"l") + section.answer.encode()
    raise _other_kind(type(section).__name__, layout)


def decode(records: Sequence[Stored], lengths: Sequence[int], layout: Layout) -> Section:
    """The sections of many rows, decoded in one go and joined along N, M or P.

    Args:
        records: one a row, at least one, in any order of rows; checked against their checksums and decompressed.
        lengths: positions of each row, each at least 1: N, for states that stand at all tokens L (`positions_of`).
            A text has none: whatever stands there is not read.
        layout: the tokens have `decode_tokens`.
    Raises:
        ShapeError: texts of several rows (they cannot be joined).
        CacheCorrupt: a record cannot be one of this layout and length.
    """
    if len(records) != len(lengths) or not records:
        raise ShapeError("Each record needs its length.", facts=(f"{len(records)} records, {len(lengths)} lengths",))
    if isinstance(layout, TopKLayout):
        return decode_top_k(records, lengths, layout)
    if isinstance(layout, SampledLayout):
        return decode_sampled(records, lengths, layout)
    if isinstance(layout, StatesLayout):
        return decode_states(records, lengths, layout)
    if isinstance(layout, TextLayout):
        return _decode_text(records)
    raise _other_kind("a section", layout)


def split(section: Section, lengths: Sequence[int]) -> list[Section]:
    """A joined section as one section a row: views into its memory.

    Args:
        section: from `decode`.
        lengths: as they were given to `decode`.
    """
    if isinstance(section, Text):
        return [section]
    ends = np.cumsum(lengths).tolist()
    cuts = [slice(start, end) for start, end in pairwise([0, *ends])]
    if isinstance(section, TopK):
        return [
            TopK(section.ids[cut], section.logp[cut], section.tail_logmass[cut], section.actual_logp[cut])
            for cut in cuts
        ]
    if isinstance(section, States):
        return [States({name: array[cut] for name, array in section.arrays.items()}) for cut in cuts]
    drawn = np.concatenate(([0], np.cumsum(section.distinct))).tolist()
    rows: list[Section] = []
    for cut in cuts:
        inside = slice(drawn[cut.start], drawn[cut.stop])
        rows.append(
            Sampled(section.distinct[cut], section.ids[inside], section.counts[inside], section.entropy_estimate[cut])
        )
    return rows


def positions_of(layout: Layout, *, tokens: int, scored: int) -> int:
    """How many positions a row of so many tokens, so many of them scored, has in records of this kind."""
    if isinstance(layout, TokensLayout) or (isinstance(layout, StatesLayout) and layout.positions == "all"):
        return tokens
    return scored


def encode_tokens(input_ids: Ints, answer_mask: npt.NDArray[np.bool_], layout: TokensLayout) -> bytes:
    """The tokens' record of one row: L ids packed at id_bits, then L bits of the mask packed at 1.

    Args:
        input_ids, answer_mask: (L,).
    Raises:
        ShapeError: not of one length.
        CacheMismatch: an id does not fit.
    """
    if input_ids.ndim != 1 or input_ids.shape != answer_mask.shape:
        raise ShapeError("A row's ids and mask differ.", facts=(f"ids {input_ids.shape}, mask {answer_mask.shape}",))
    return packed(input_ids, layout.id_bits, "token ids") + packed(answer_mask.astype(np.uint8), 1, "mask")


def decode_tokens(
    records: Sequence[Stored], lengths: Sequence[int], layout: TokensLayout
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(sum of L,) ids and mask, the rows one after another.

    Args:
        records: one a row.
        lengths: L of each.
    Raises:
        CacheCorrupt: a record is not as long as the layout says.
    """
    cursor = Cursor(records, layout.kind)
    input_ids = cursor.integers(lengths, layout.id_bits)
    answer_mask = cursor.integers(lengths, 1).astype(np.bool_)
    cursor.end()
    return input_ids, answer_mask


def _decode_text(records: Sequence[Stored]) -> Text:
    if len(records) != 1:
        raise ShapeError("Texts cannot be joined: decode them one by one.", facts=(f"{len(records)} records",))
    record = bytes(records[0])
    if record[:1] not in (b"s", b"l"):
        raise CacheCorrupt("A stored answer does not say how it ended.", facts=(f"first byte: {record[:1]!r}",))
    try:
        answer = record[1:].decode()
    except UnicodeDecodeError as error:
        raise CacheCorrupt("A stored answer is not UTF-8.", facts=(str(error),)) from error
    return Text(answer, "stop" if record[:1] == b"s" else "length")


def _other_kind(given: str, layout: Layout) -> ShapeError:
    return ShapeError(
        "A section and its layout are of different kinds.", facts=(f"given: {given}", f"the layout: {layout.kind}")
    )
