"""Settings of the terms on next tokens, and all that a recipe can write; those on layers are in `layer_terms`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_serializer,
    field_validator,
    model_validator,
)

from distillab.config.layer_terms import (
    AttentionMapsConfig,
    AttentionRelationsConfig,
    ContrastiveConfig,
    HiddenStatesConfig,
    SpanHiddenStatesConfig,
)
from distillab.config.term_base import BaseTermConfig, DivergenceTermConfig, ProjectorRate, TokenRequirement
from distillab.records import AccessLevel


class CrossEntropyConfig(BaseTermConfig):
    """Next-token cross-entropy against the tokens of the answer."""

    target: ClassVar[str] = "distillab.objectives.cross_entropy:CrossEntropy"
    kind: Literal["cross_entropy"] = "cross_entropy"


class TokenDivergenceConfig(DivergenceTermConfig):
    """Divergence between the teacher's and the student's next-token distributions, index by index."""

    target: ClassVar[str] = "distillab.objectives.token_divergence:TokenDivergence"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "shared"
    kind: Literal["token_divergence"] = "token_divergence"


class TopKDivergenceConfig(DivergenceTermConfig):
    """Divergence from the teacher's top-k log-probabilities, as APIs and small caches provide them."""

    target: ClassVar[str] = "distillab.objectives.top_k_divergence:TopKDivergence"
    access: ClassVar[AccessLevel] = "top_k"
    tokens: ClassVar[TokenRequirement] = "shared"
    kind: Literal["top_k_divergence"] = "top_k_divergence"
    k: int = Field(default=32, ge=1, description="teacher tokens per position")
    tail: Literal["cell", "renormalise", "drop_tail"] = Field(
        default="cell",
        description="cell: all other tokens are one further outcome; renormalise: the kept ones are made to sum to "
        "one; drop_tail: the rest is left out of the sum (both biased: the first leaves the mass of all others to "
        "chance, the second makes the student over-confident)",
    )

    @model_validator(mode="after")
    def _one_token_has_no_distribution(self) -> TopKDivergenceConfig:
        if self.k == 1 and self.tail == "renormalise":
            raise ValueError(
                "with k 1, renormalise gives every model the probability 1 for its token: set k to 2 or more"
            )
        return self


class SampledDivergenceConfig(BaseTermConfig):
    """Forward KL estimated without bias from tokens that are drawn from the teacher's distribution."""

    target: ClassVar[str] = "distillab.objectives.sampled_divergence:SampledDivergence"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "shared"
    kind: Literal["sampled_divergence"] = "sampled_divergence"
    samples: int = Field(default=50, ge=1, description="draws a position, with replacement; their counts are target")
    temperature: float = Field(default=1.0, gt=0, description="the logits of both models are divided by it")


class VocabularyProjectionConfig(DivergenceTermConfig):
    """Divergence between next-token distributions of two vocabularies, where both tokenisations begin a token."""

    target: ClassVar[str] = "distillab.objectives.vocabulary_projection:VocabularyProjection"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "aligned"
    matches: ClassVar[str | None] = "token_divergence"
    kind: Literal["vocabulary_projection"] = "vocabulary_projection"
    form: Literal["projected", "common", "strict"] = Field(
        default="projected",
        description="projected: tokens are compared in groups, each with the first token of its text in the other "
        "vocabulary; common: only the tokens of both vocabularies, renormalised over them; strict: the same, and only "
        "where one token of either follows (arXiv:2610.08448)",
    )
    rest: Literal["text", "none"] = Field(
        default="text",
        description="text: what the teacher does not predict (which token of a group, and tokens at positions that are "
        "not aligned) is learned from the text; none: it does not count",
    )

    @model_validator(mode="after")
    def _strict_leaves_the_rest_to_the_text(self) -> VocabularyProjectionConfig:
        if self.form == "strict" and self.rest == "none":
            raise ValueError("form: strict compares few positions, and the text teaches the others: set rest: text")
        return self


class TransportConfig(DivergenceTermConfig):
    """Base of the settings of terms that carry the teacher's distribution over to the student's tokens."""

    tokens: ClassVar[TokenRequirement] = "aligned"
    needs_common_tokens: ClassVar[bool] = False
    form: Literal["outcomes", "measured", "longest_prefix"] = Field(
        default="outcomes",
        description="outcomes: the student is carried to the teacher's tokens, each of its tokens to those that the "
        "training rows show in its place, and the text decides among tokens of the student that mean the same to the "
        "teacher; measured: the teacher is carried to the student's tokens, by the shares of the rows; longest_prefix: "
        "to the student's longest token with whose bytes the teacher's begins (BPM, arXiv:2607.22334)",
    )
    prior: float | None = Field(
        default=None,
        gt=0,
        description="of outcomes and measured: counts that are added to the first token of the own encoding; default 2",
    )
    rest: Literal["text", "none"] = Field(
        default="text",
        description="text: tokens at positions that are not aligned are learned from the text; none: they do not count",
    )

    @model_validator(mode="after")
    def _only_counts_have_a_prior(self) -> TransportConfig:
        if self.form == "longest_prefix" and self.prior is not None:
            raise ValueError("prior belongs to the forms outcomes and measured; longest_prefix counts nothing")
        return self


class MeasuredTransportConfig(TransportConfig):
    """Divergence of two next-token distributions, one carried to the other's tokens as the training rows show them."""

    target: ClassVar[str] = "distillab.objectives.measured_transport:MeasuredTransport"
    access: ClassVar[AccessLevel] = "logits"
    matches: ClassVar[str | None] = "token_divergence"
    kind: Literal["measured_transport"] = "measured_transport"
    samples: int | None = Field(
        default=None, ge=1, description="draws a position instead of the whole distribution; forward_kl alone"
    )

    @model_validator(mode="after")
    def _draws_estimate_forward_kl(self) -> MeasuredTransportConfig:
        if self.samples is not None and self.divergence != "forward_kl":
            raise ValueError(f"draws estimate forward_kl, not {self.divergence}: leave out samples")
        return self


class TopKTransportConfig(TransportConfig):
    """The same from the teacher's top-k log-probabilities, as APIs and small caches provide them."""

    target: ClassVar[str] = "distillab.objectives.measured_transport:TopKTransport"
    access: ClassVar[AccessLevel] = "top_k"
    matches: ClassVar[str | None] = "top_k_divergence"
    kind: Literal["top_k_transport"] = "top_k_transport"
    k: int = Field(default=16, ge=1, description="teacher tokens per position; all others are one further outcome")


class SpanLikelihoodConfig(BaseTermConfig):
    """Likelihood of spans of text that both tokenisations have in common (ALM, Minixhofer et al. 2025)."""

    target: ClassVar[str] = "distillab.objectives.span_likelihood:SpanLikelihood"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "aligned"
    kind: Literal["span_likelihood"] = "span_likelihood"
    temperature: float = Field(default=100.0, gt=0, description="likelihoods are raised to the power of 1 / it")
    debias: bool = Field(
        default=True,
        description="multiply a span's likelihood by the probability that the next token begins a new word, so that "
        "a token that can continue is not counted as one that ends there",
    )


class SortedProbabilitiesConfig(BaseTermConfig):
    """Distance between sorted next-token probabilities (ULD, Boizard et al. 2024): token identity is not used."""

    target: ClassVar[str] = "distillab.objectives.sorted_probabilities:SortedProbabilities"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "aligned"
    kind: Literal["sorted_probabilities"] = "sorted_probabilities"
    positions: Literal["ordinal", "boundaries"] = Field(
        default="ordinal",
        description="ordinal: the n-th token of the answer with the n-th, as published; boundaries: where both "
        "tokenisations begin a token",
    )
    temperature: float = Field(default=1.0, gt=0, description="the logits of both models are divided by it")


class MergedSpansConfig(DivergenceTermConfig):
    """Divergence between distributions merged over spans by the chain rule (GOLD); unmatched tokens are sorted."""

    target: ClassVar[str] = "distillab.objectives.merged_spans:MergedSpans"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "aligned"
    matches: ClassVar[str | None] = "token_divergence"
    kind: Literal["merged_spans"] = "merged_spans"
    unmatched_weight: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="u of (1 - u) · divergence + u · distance of the sorted tokens of one vocabulary only; default: "
        "their share of the teacher's ids",
    )


class DualSpaceConfig(BaseTermConfig):
    """Distributions in each other's space, by projected hidden states and cross-model attention (DSKD)."""

    target: ClassVar[str] = "distillab.objectives.dual_space:DualSpace"
    access: ClassVar[AccessLevel] = "internals"
    tokens: ClassVar[TokenRequirement] = "aligned"
    kind: Literal["dual_space"] = "dual_space"
    temperature: float = Field(default=2.0, gt=0, description="of both divergences")
    attention: Literal["causal", "full"] = Field(
        default="causal",
        description="causal: no position attends beyond its own span, and to no state of the "
        "student that has read more text than the teacher; full: the whole answer, as published",
    )
    projector_learning_rate: ProjectorRate = None


class _CustomTermConfig(BaseTermConfig):
    """Base of the settings of a user's own loss, for the Python interface only: a recipe holds no code."""

    name: str = Field(default="custom", pattern=r"^[a-z][a-z0-9_]*$", description="of the term in logs and reports")
    loss: Callable[..., Any] = Field(description="deterministic; gives (N,) values, each of its position alone")
    arguments: ClassVar[tuple[str, ...]]

    @field_validator("loss")
    @classmethod
    def _takes_the_arguments(cls, loss: Callable[..., Any]) -> Callable[..., Any]:
        try:
            inspect.signature(loss).bind(*cls.arguments)
        except TypeError as error:
            raise ValueError(f"the loss is called as loss({', '.join(cls.arguments)}): {error}") from None
        return loss

    @field_serializer("loss")
    def _by_name(self, loss: Callable[..., Any]) -> str:
        return getattr(loss, "__qualname__", type(loss).__qualname__)


class CustomLossConfig(_CustomTermConfig):
    """Your own loss of the student: `loss(student_logits, labels)`."""

    target: ClassVar[str] = "distillab.objectives.custom:CustomLoss"
    arguments: ClassVar[tuple[str, ...]] = ("student_logits", "labels")
    kind: Literal["custom_loss"] = "custom_loss"


class CustomDivergenceConfig(_CustomTermConfig):
    """Your own loss of student and teacher, over the token ids that both share."""

    target: ClassVar[str] = "distillab.objectives.custom:CustomDivergence"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "shared"
    arguments: ClassVar[tuple[str, ...]] = ("student_logits", "teacher_logits", "labels")
    kind: Literal["custom_divergence"] = "custom_divergence"


TermConfig = Annotated[
    CrossEntropyConfig
    | TokenDivergenceConfig
    | TopKDivergenceConfig
    | SampledDivergenceConfig
    | HiddenStatesConfig
    | AttentionRelationsConfig
    | AttentionMapsConfig
    | VocabularyProjectionConfig
    | MeasuredTransportConfig
    | TopKTransportConfig
    | SpanLikelihoodConfig
    | SortedProbabilitiesConfig
    | MergedSpansConfig
    | DualSpaceConfig
    | ContrastiveConfig
    | SpanHiddenStatesConfig,
    Field(discriminator="kind"),
]


def _own_loss(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, _CustomTermConfig) else validate(value)


AnyTermConfig = Annotated[SerializeAsAny[TermConfig], WrapValidator(_own_loss)]
"""A term that a recipe can write, or one of one's own losses, which only Python can name."""
