"""How many bytes a record takes, before there is one. Shape letters as in `rows.py`."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.cache.bits import packed_bytes
from distillab.cache.layout import Layout, SampledLayout, StatesLayout, TextLayout, TokensLayout, TopKLayout
from distillab.cache.sections import positions_of
from distillab.cache.shards import TOKENS, ShardRow, make_shard
from distillab.errors import ShapeError

_NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "companded8": 1}
_FLOAT16 = 2
_LONGEST_TEXT = 2**26


def record_bytes(layout: Layout, *, tokens: int, scored: int, distinct: int | None = None) -> int:
    """Bytes of one row's record without compression, as `sections.encode` makes it.

    Args:
        tokens: L of the row.
        scored: N of the row.
        distinct: M, of a row with draws; default: as many as there are draws, which is the most that it can take.
    Raises:
        ShapeError: a text, whose length nobody knows before.
    """
    positions = positions_of(layout, tokens=tokens, scored=scored)
    match layout:
        case TokensLayout():
            return packed_bytes(tokens, layout.id_bits) + packed_bytes(tokens, 1)
        case TopKLayout():
            entries = positions * layout.k
            packed = packed_bytes(entries, layout.id_bits)
            return 2 * _FLOAT16 * positions + entries * _NUMBER[layout.values] + packed
        case SampledLayout():
            drawn = positions * layout.draws if distinct is None else distinct
            others = packed_bytes(drawn - positions, layout.count_bits)
            of_positions = _FLOAT16 * positions + packed_bytes(positions, layout.count_bits)
            return of_positions + packed_bytes(drawn, layout.id_bits) + others
        case StatesLayout():
            scales = sum(_FLOAT16 for array in layout.arrays if array.store == "int8")
            return positions * (sum(array.width * _NUMBER[array.store] for array in layout.arrays) + scales)
        case TextLayout():
            raise ShapeError("How long the teacher's answers will be is not known before.")


def most_record_bytes(layout: Layout, *, tokens: int, scored: int) -> int:
    """The most bytes that one row's record can have without compression; of an answer, far more than one has."""
    return _LONGEST_TEXT if isinstance(layout, TextLayout) else record_bytes(layout, tokens=tokens, scored=scored)


def index_bytes(keys: Sequence[str], kinds: Sequence[str], *, rows_per_shard: int) -> int:
    """Bytes of all shards beside their records: headers, keys, digests, lengths, ends and checksums.

    Exact but for some digits in the headers, which say where the records end.

    Args:
        keys: of all rows, in their order.
        kinds: of the cache.
    """
    sections = [TOKENS, *kinds]
    nothing = dict.fromkeys(sections, b"")
    return sum(
        make_shard(
            [ShardRow(key, bytes(16), 0, 0, nothing) for key in keys[start : start + rows_per_shard]],
            sections,
            number=start // rows_per_shard,
            fingerprint="0" * 64,
        )[1]
        for start in range(0, len(keys), rows_per_shard)
    )
