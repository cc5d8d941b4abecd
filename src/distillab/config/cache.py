"""Settings of a teacher cache: which kinds of signal are stored, and in which precision."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from distillab.config.base import PathText, Settings
from distillab.config.layer_terms import Positions


def _each_once(value: tuple[int, ...], *, least: int) -> tuple[int, ...]:
    if len(set(value)) != len(value) or min(value) < least:
        raise ValueError(f"write each number once, {least} or larger")
    return tuple(sorted(value))


Kind = Literal["text", "top_k", "sampled", "full", "hidden_states", "attention_inputs"]
StateStore = Literal["exact", "bfloat16", "int8"]


class TopKKind(Settings):
    """The teacher's top-k log-probabilities at every scored position, the tail mass, and the token of the text."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(default=64, ge=1, le=65535, description="tokens kept a position")
    temperature: float = Field(default=1.0, gt=0, description="the teacher's logits are divided by it")
    values: Literal["companded8", "float16"] = Field(
        default="companded8",
        description="companded8: one byte a log-probability, finest near 0 where it matters most; float16: two bytes",
    )


class SampledKind(Settings):
    """Tokens sampled from the teacher's distribution, with their counts: unbiased, and the smallest kind."""

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(default=50, ge=1, le=65535, description="draws a position, with replacement")
    temperature: float = Field(default=1.0, gt=0, description="the teacher's logits are divided by it")


class FullKind(Settings):
    """The whole next-token distribution: the input of the teacher's LM head, and the head itself, once.

    An input of the head is as long as the hidden size, logits are as long as the vocabulary.
    """

    kind: Literal["full"] = "full"
    store: Literal["exact", "bfloat16"] = Field(default="exact", description="exact: in the teacher's own dtype")


class HiddenStatesKind(Settings):
    """Hidden states of chosen teacher layers: 0 is the embeddings, n the n-th block, the last after the final norm."""

    kind: Literal["hidden_states"] = "hidden_states"
    layers: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(partial(_each_once, least=0))] = Field(
        description="their numbers"
    )
    positions: Positions = Field(default="answer", description="answer: positions that predict the answer; or all")
    store: StateStore = Field(
        default="bfloat16", description="exact: in the teacher's own dtype; int8: with one scale a row"
    )


class AttentionInputsKind(Settings):
    """Queries, keys and values of chosen teacher blocks (from 1) at every token, for attention relations."""

    kind: Literal["attention_inputs"] = "attention_inputs"
    blocks: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(partial(_each_once, least=1))] = Field(
        description="their numbers"
    )
    store: StateStore = Field(default="bfloat16", description="as for hidden_states")


class TextKind(Settings):
    """The teacher's own answers to every prompt (sequence-level KD), generated with teacher_answers."""

    kind: Literal["text"] = "text"


KindConfig = Annotated[
    TopKKind | SampledKind | FullKind | HiddenStatesKind | AttentionInputsKind | TextKind, Field(discriminator="kind")
]


class CacheConfig(Settings):
    """Settings of `distillab cache build`: what is stored, and where."""

    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"folder", "rows_per_shard", "compression"})
    folder: PathText | None = Field(default=None, description="default: cache inside the recipe's output")
    kinds: tuple[KindConfig, ...] | None = Field(
        default=None, min_length=1, description="default: what the recipe's methods need from the teacher"
    )
    seed: int = Field(default=0, description="for sampled tokens")
    rows_per_shard: int = Field(default=256, ge=1, description="rows in a file; an interruption costs at most these")
    batch_size: int = Field(default=32, ge=1, description="rows in a forward pass of the teacher")
    compression: Literal["none", "zstd"] = Field(default="none", description="zstd needs the extra distillab[zstd]")

    @model_validator(mode="after")
    def _each_kind_once(self) -> CacheConfig:
        kinds = [item.kind for item in self.kinds or ()]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"duplicate kind: {', '.join(twice)}; use two caches")
        return self
