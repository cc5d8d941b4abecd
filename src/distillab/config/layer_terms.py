"""Settings of the terms that compare activations within the two models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from distillab.config.term_base import BaseTermConfig, ProjectorRate, TokenRequirement
from distillab.records import AccessLevel

Relation = Literal["query", "key", "value"]
Positions = Literal["answer", "all"]
LayerMap = Literal["last", "uniform", "embeddings"] | tuple[tuple[int, int], ...]
ProjectorInit = Annotated[
    Literal["least_squares", "orthogonal"],
    Field(description="least_squares: fitted on the first batch; orthogonal: random"),
]


class _ActivationTermConfig(BaseTermConfig):
    """Base of the settings of terms that compare activations of the two models, position by position."""

    access: ClassVar[AccessLevel] = "internals"
    tokens: ClassVar[TokenRequirement] = "shared"
    positions: Positions = Field(default="answer", description="answer: where the answer is predicted; or all")


class HiddenStatesConfig(_ActivationTermConfig):
    """Distance between hidden states of mapped layers."""

    target: ClassVar[str] = "distillab.objectives.hidden_states:HiddenStates"
    kind: Literal["hidden_states"] = "hidden_states"
    layers: LayerMap = Field(
        default="last",
        description="last, uniform, embeddings, or pairs [student, teacher]; 0 is the embeddings, n the n-th block",
    )
    loss: Literal["mse", "cosine", "cka"] = Field(
        default="mse",
        description="mse: mean squared error; cosine: 1 − cosine; cka: 1 − linear CKA over the positions of a batch",
    )
    projector: Literal["auto", "linear", "none"] = Field(
        default="auto", description="student width -> teacher width; auto: linear where the widths differ"
    )
    projector_init: ProjectorInit = "least_squares"
    projector_learning_rate: ProjectorRate = None

    @model_validator(mode="after")
    def _cka_needs_no_projector(self) -> HiddenStatesConfig:
        if self.loss == "cka" and self.projector == "linear":
            raise ValueError("cka compares layers of any width without a projector; leave projector at auto")
        return self


class ContrastiveConfig(BaseTermConfig):
    """InfoNCE: the two models' states of the same span are the positive pair, other spans are negatives."""

    target: ClassVar[str] = "distillab.objectives.contrastive:Contrastive"
    access: ClassVar[AccessLevel] = "internals"
    tokens: ClassVar[TokenRequirement] = "aligned"
    kind: Literal["contrastive"] = "contrastive"
    layers: LayerMap = Field(default="last", description="as for hidden_states")
    width: int = Field(default=128, ge=1, description="of the space that both models are projected to")
    temperature: Annotated[float, Field(gt=0)] | Literal["learned"] = Field(
        default=0.07, description="the similarities are divided by it; learned: from 0.07 on, between 0.01 and 1"
    )
    queue: int = Field(default=4096, ge=0, description="spans of the teacher kept from earlier steps as negatives")
    projector_learning_rate: ProjectorRate = None


class SpanHiddenStatesConfig(BaseTermConfig):
    """The same for two tokenisations: states are averaged over the spans that both have in common."""

    target: ClassVar[str] = "distillab.objectives.span_hidden_states:SpanHiddenStates"
    access: ClassVar[AccessLevel] = "internals"
    tokens: ClassVar[TokenRequirement] = "aligned"
    kind: Literal["span_hidden_states"] = "span_hidden_states"
    layers: LayerMap = Field(default="last", description="as for hidden_states")
    loss: Literal["mse", "cosine"] = Field(default="mse", description="mse: mean squared error; cosine: 1 − cosine")
    pooling: Literal["mean", "last"] = Field(default="mean", description="of a span's tokens; last: its last one")
    projector: Literal["auto", "linear", "none"] = Field(default="auto", description="as for hidden_states")
    projector_init: ProjectorInit = "least_squares"
    projector_learning_rate: ProjectorRate = None


class AttentionRelationsConfig(_ActivationTermConfig):
    """Divergence between self-attention relations of queries, keys and values (MiniLMv2)."""

    target: ClassVar[str] = "distillab.objectives.attention_relations:AttentionRelations"
    kind: Literal["attention_relations"] = "attention_relations"
    layers: LayerMap = Field(default="last", description="last, uniform, or pairs [student, teacher] of blocks from 1")
    relations: tuple[Relation, ...] = Field(
        default=("query", "key", "value"), min_length=1, description="which projections of a block are compared"
    )
    heads: int | None = Field(
        default=None, ge=1, description="relation heads; default: the most that divide all compared widths, at most 16"
    )

    @model_validator(mode="after")
    def _blocks_only(self) -> AttentionRelationsConfig:
        _require_blocks(self.layers)
        if len(set(self.relations)) != len(self.relations):
            raise ValueError("the same relation is given twice")
        return self


class AttentionMapsConfig(_ActivationTermConfig):
    """Divergence between attention distributions; needs eager attention in both models."""

    target: ClassVar[str] = "distillab.objectives.attention_maps:AttentionMaps"
    kind: Literal["attention_maps"] = "attention_maps"
    layers: LayerMap = Field(default="last", description="last, uniform, or pairs [student, teacher] of blocks from 1")
    heads: Literal["matched", "mean"] = Field(
        default="matched", description="matched: head by head, needs equal counts; mean: the mean over the heads"
    )

    @model_validator(mode="after")
    def _blocks_only(self) -> AttentionMapsConfig:
        _require_blocks(self.layers)
        return self


def _require_blocks(layers: LayerMap) -> None:
    if layers == "embeddings" or (not isinstance(layers, str) and any(0 in pair for pair in layers)):
        raise ValueError("embeddings have no attention: map blocks, which count from 1")
