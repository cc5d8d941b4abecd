"""Encode sections of rows to bytes and decode them, for all kinds of a cache: one record a row and kind.

The records of many rows are decoded together. FORMAT.md, *Records*, is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from distillab.cache.activations import StatesLayout
from distillab.cache.layout import KindLayout, RecordLayout, Section
from distillab.cache.next_tokens import SampledLayout, TopKLayout
from distillab.cache.streams import Stored
from distillab.cache.text import TextLayout
from distillab.errors import ShapeError

Layout = Annotated[TopKLayout | SampledLayout | StatesLayout | TextLayout, Field(discriminator="kind")]


def encode(section: Section, layout: Layout) -> bytes:
    """Return the record of one row.

    Raises:
        ShapeError: the section is of another kind or shape than the layout.
        NumericsError: the teacher's numbers are not finite, or no distribution.
        CacheMismatch: an id does not fit into the layout's bits.
    """
    if not isinstance(section, layout.section):
        raise _other_kind(type(section).__name__, layout)
    encoded: Callable[[Any], bytes] = layout.encode  # exactly this type of section
    return encoded(section)


def decode(records: Sequence[Stored], lengths: Sequence[int], layout: Layout) -> Section:
    """Return the sections of many rows, decoded at once and joined along N or P.

    Args:
        records: one a row, at least one, in any order of rows; checked against their checksums and decompressed.
        lengths: positions of each row, each at least 1 (`positions_of`); not used for a text.
    Raises:
        ShapeError: texts of several rows (they cannot be joined).
        CacheCorrupt: a record cannot be one of this layout and length.
    """
    if len(records) != len(lengths) or not records:
        raise ShapeError("Each record needs its length.", facts=(f"{len(records)} records, {len(lengths)} lengths",))
    if not isinstance(layout, KindLayout):
        raise _other_kind("a section", layout)
    return layout.decode(records, lengths)


def _other_kind(given: str, layout: RecordLayout) -> ShapeError:
    return ShapeError(
        "A section and its layout are of different kinds.",
        facts=(f"given: {given}", f"the layout: {getattr(layout, 'kind', 'none')}"),
    )
