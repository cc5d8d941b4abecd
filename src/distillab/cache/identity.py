"""What decides a cache's content. Two caches of equal identity hold equal bytes."""

from __future__ import annotations

import hashlib

from pydantic import Field

from distillab.cache.layout import FORMAT_VERSION, Layout, TokensLayout
from distillab.records.base import Record
from distillab.records.sources import TeacherProvenance


class TeacherSizes(Record):
    """Sizes of the teacher, for terms that compare inner states."""

    blocks: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int


class CacheIdentity(Record):
    """Everything that decides the bytes of a cache."""

    format_version: int = FORMAT_VERSION
    teacher: TeacherProvenance
    revision: str | None = Field(description="of the teacher, where it came from a hub")
    sizes: TeacherSizes
    tokenizer: str = Field(description="fingerprint of the tokenizer that made the rows' ids")
    template_sha256: str = Field(description="of the template that made the rows' text")
    width: int = Field(description="ids 0 … width-1 that the teacher's distribution is over")
    source: str = Field(description="name of the rows, for messages")
    rows: int
    rows_sha256: str = Field(
        description="over the digests of all rows in their order; kind text: over the keys and ids of all prompts"
    )
    tokens: TokensLayout
    layouts: tuple[Layout, ...]
    compression: str
    seed: int
    rows_per_shard: int
    batch_size: int
    decoding: dict[str, object] | None = Field(default=None, description="how the teacher answers (kind text)")
    engine: dict[str, str] = Field(description="versions and device: other ones may give other last digits")

    @property
    def fingerprint(self) -> str:
        """sha256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
