"""What stands in a row of each kind: everything a reader needs to know to find the numbers again.

Shape letters: N scored positions of a row, L tokens of a row, P positions at which states are stored (N or L).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillab.config.terms import Positions
from distillab.records.base import Record

FORMAT_VERSION = 1

# What a layout may say at most: far beyond any model, and small enough that no reader waits or overflows.
_WIDEST = 2**24
_MOST_DRAWS = 2**16


class TokensLayout(Record):
    """The row's ids, and which of its tokens are scored; in every cache."""

    kind: Literal["tokens"] = "tokens"
    id_bits: int = Field(ge=1, le=32)


class TopKLayout(Record):
    """k ids and log-probabilities a position, the log-mass of all others, the log-probability of the actual token."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(ge=1, le=_WIDEST)
    id_bits: int = Field(ge=1, le=32)
    values: Literal["companded8", "float16"]
    temperature: float


class SampledLayout(Record):
    """The distinct ids that were drawn a position, how often each, and −mean log p of the draws."""

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(ge=1, le=_MOST_DRAWS)
    id_bits: int = Field(ge=1, le=32)
    count_bits: int = Field(ge=1, le=16)
    temperature: float


class StateArray(Record):
    """One tensor of the teacher: (P, width) numbers a row.

    name: `head_input` (full), `layer.N` (hidden_states), `block.N.query`, `.key`, `.value` (attention_inputs).
    """

    name: str
    width: int = Field(ge=1, le=_WIDEST)
    store: Literal["float32", "float16", "bfloat16", "int8"]


class StatesLayout(Record):
    """Tensors of one kind, in their order."""

    kind: Literal["full", "hidden_states", "attention_inputs"]
    positions: Positions
    arrays: tuple[StateArray, ...] = Field(min_length=1, max_length=2**12)


class TextLayout(Record):
    """The teacher's answer as UTF-8, and how it ended."""

    kind: Literal["text"] = "text"


Layout = Annotated[TokensLayout | TopKLayout | SampledLayout | StatesLayout | TextLayout, Field(discriminator="kind")]
