"""The identity of a cache: everything that decides its content. Equal identities hold equal bytes."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distillab.cache.kinds import Layout
from distillab.cache.layout import FORMAT_VERSION, TokensLayout
from distillab.records.base import Record
from distillab.records.sources import TeacherProvenance

MOST_ROWS = 2**40
MOST_SHARDS = 2**20
"""The largest number of files of a cache: a reader goes through all of them."""

_LARGEST = 2**31


class TeacherSizes(Record):
    """Sizes of the teacher, for terms that compare activations."""

    blocks: int = Field(ge=0, le=_LARGEST)
    width: int = Field(ge=0, le=_LARGEST)
    heads: int = Field(ge=0, le=_LARGEST)
    key_value_heads: int = Field(ge=0, le=_LARGEST)
    head_width: int = Field(ge=0, le=_LARGEST)


class CacheIdentity(Record):
    """Everything that decides the bytes of a cache."""

    format_version: int = FORMAT_VERSION
    teacher: TeacherProvenance
    revision: str | None = Field(description="of the teacher, if it is from a hub")
    sizes: TeacherSizes
    tokenizer: str = Field(description="fingerprint of the tokenizer that made the rows' ids")
    template_sha256: str = Field(description="of the template that made the rows' text")
    template_date: datetime.date | None = Field(default=None, description="the day of this template, if it writes one")
    width: int = Field(ge=0, le=_LARGEST, description="ids 0 … width-1 that the teacher's distribution is over")
    source: str = Field(description="name of the rows, for messages")
    rows: int = Field(ge=0, le=MOST_ROWS)
    rows_sha256: str = Field(
        description="over the digests of all rows in their order; kind text: over the keys and ids of all prompts"
    )
    tokens: TokensLayout
    layouts: tuple[Layout, ...]
    compression: str
    seed: int
    rows_per_shard: int = Field(ge=1, le=MOST_ROWS)
    batch_size: int = Field(ge=1)
    decoding: dict[str, object] | None = Field(default=None, description="how the teacher answers (kind text)")
    engine: dict[str, str] = Field(description="versions and device: others can change the last digits")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The stored kinds."""
        return tuple(layout.kind for layout in self.layouts)

    @property
    def stores_head(self) -> bool:
        """The teacher's head is stored, so that whole distributions can be read."""
        return any(layout.stores_head for layout in self.layouts)

    @property
    def fingerprint(self) -> str:
        """sha256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @model_serializer(mode="wrap")
    def _without_a_day_as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write an identity without a day with the bytes and the fingerprint that it had before there was one."""
        written: dict[str, Any] = write(self)
        if self.template_date is None:
            written.pop("template_date", None)
        return written
