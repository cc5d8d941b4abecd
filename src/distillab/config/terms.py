"""Settings of each term, its class, and the access level and tokens that it needs."""

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

from distillab.config.base import Settings
from distillab.records import AccessLevel

# shared: ids mean the same in both tokenizers. aligned: two tokenisations of the same text, aligned by spans.
TokenRequirement = Literal["shared", "aligned", "any"]
Divergence = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "adaptive_kl",
    "total_variation",
    "alpha_beta",
]
Relation = Literal["query", "key", "value"]
Positions = Literal["answer", "all"]
LayerMap = Literal["last", "uniform", "embeddings"] | tuple[tuple[int, int], ...]

# Which setting belongs to which divergence; every other combination is refused.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "jensen_shannon": ("teacher_weight",),
    "skewed_forward_kl": ("skew",),
    "skewed_reverse_kl": ("skew",),
    "adaptive_kl": ("head_mass",),
    "alpha_beta": ("alpha", "beta"),
}


class LinearWeight(Settings):
    """A factor that changes linearly from `start` to `end` over the run's optimizer steps."""

    start: float = Field(ge=0, description="at the first step")
    end: float = Field(ge=0, description="at the last step")
    balanced: bool = Field(
        default=False, description="multiply the balanced weight by the factor, instead of using it as the weight"
    )


Weight = Annotated[float, Field(gt=0)] | LinearWeight | Literal["balanced"]


def is_balanced(weight: Weight) -> bool:
    """Return whether a weight is set by measured gradients."""
    return weight == "balanced" or (isinstance(weight, LinearWeight) and weight.balanced)


def weight_text(weight: Weight) -> str:
    """Return a weight as console and report show it."""
    match weight:
        case LinearWeight(start=start, end=end, balanced=balanced):
            return f"{'balanced ' if balanced else ''}{start:g}→{end:g}"
        case str():
            return weight
    return f"{weight:g}"


class BaseTermConfig(Settings):
    """Base of the term settings.

    Class attributes:
        target: "module:Class" of the term. It is imported when the term is built, so that settings load no torch.
        access: what the term needs from the teacher.
        tokens: shared, if token ids of the two models must mean the same; aligned, if the term reads two tokenisations
            of the same text.
        matches: for a term that matches the tokens of two vocabularies: the kind of the term that it equals if both
            vocabularies are the same.
        needs_common_tokens: whether such a term compares nothing but tokens of both vocabularies.
    """

    target: ClassVar[str]
    access: ClassVar[AccessLevel] = "none"
    tokens: ClassVar[TokenRequirement] = "any"
    matches: ClassVar[str | None] = None
    needs_common_tokens: ClassVar[bool] = True
    weight: Weight = Field(
        default=1.0,
        description="factor of this term in the sum: a number, {start, end}, or balanced (its gradient is kept as "
        "large as that of the terms that are not balanced); {start, end, balanced: true} scales the balanced weight",
    )


class CrossEntropyConfig(BaseTermConfig):
    """Next-token cross-entropy against the tokens of the answer."""

    target: ClassVar[str] = "distillab.objectives.cross_entropy:CrossEntropy"
    kind: Literal["cross_entropy"] = "cross_entropy"


class _DivergenceTermConfig(BaseTermConfig):
    """Base of the settings of terms that compare two next-token distributions by a divergence."""

    divergence: Divergence = Field(default="forward_kl", description="between the two next-token distributions")
    teacher_weight: float | None = Field(
        default=None, gt=0, lt=1, description="w of jensen_shannon, M = w·teacher + (1-w)·student"
    )
    skew: float | None = Field(
        default=None, gt=0, lt=1, description="of skewed_*_kl: the share of the first distribution in the second"
    )
    head_mass: float | None = Field(
        default=None, gt=0, lt=1, description="of adaptive_kl: teacher probability that the head holds at least"
    )
    alpha: float | None = Field(default=None, description="of alpha_beta: power of the teacher's probability")
    beta: float | None = Field(default=None, description="of alpha_beta: power of the student's probability")
    temperature: float = Field(default=1.0, gt=0, description="the logits of both models are divided by it")
    rescale_by_temperature_squared: bool = Field(
        default=False, description="multiply by temperature² (Hinton et al. 2015)"
    )

    @model_validator(mode="after")
    def _parameters_belong_to_the_divergence(self) -> _DivergenceTermConfig:
        wanted = _PARAMETERS.get(self.divergence, ())
        for name in ("teacher_weight", "skew", "head_mass", "alpha", "beta"):
            given = getattr(self, name) is not None
            if given and name not in wanted:
                owners = [owner for owner, names in _PARAMETERS.items() if name in names]
                raise ValueError(f"{name} belongs to {' and '.join(owners)}; {self.divergence} has no such setting")
            if not given and name in wanted:
                raise ValueError(f"{self.divergence} needs {name}")
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """The settings that belong to the divergence alone, by their names."""
        return {name: getattr(self, name) for name in _PARAMETERS.get(self.divergence, ())}


class TokenDivergenceConfig(_DivergenceTermConfig):
    """Divergence between the teacher's and the student's next-token distributions, index by index."""

    target: ClassVar[str] = "distillab.objectives.token_divergence:TokenDivergence"
    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenRequirement] = "shared"
    kind: Literal["token_divergence"] = "token_divergence"


class TopKDivergenceConfig(_DivergenceTermConfig):
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


class VocabularyProjectionConfig(_DivergenceTermConfig):
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


class TransportConfig(_DivergenceTermConfig):
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


class MergedSpansConfig(_DivergenceTermConfig):
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
    projector_learning_rate: float | None = Field(
        default=None, gt=0, description="default: training.learning_rate; it follows the same schedule"
    )


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
    projector_learning_rate: float | None = Field(
        default=None, gt=0, description="default: training.learning_rate; it follows the same schedule"
    )


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
    projector_init: Literal["least_squares", "orthogonal"] = Field(
        default="least_squares", description="least_squares: fitted on the first batch; orthogonal: random"
    )
    projector_learning_rate: float | None = Field(
        default=None, gt=0, description="default: training.learning_rate; it follows the same schedule"
    )

    @model_validator(mode="after")
    def _cka_needs_no_projector(self) -> HiddenStatesConfig:
        if self.loss == "cka" and self.projector == "linear":
            raise ValueError("cka compares layers of any width without a projector; leave projector at auto")
        return self


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
    projector_init: Literal["least_squares", "orthogonal"] = Field(
        default="least_squares", description="least_squares: fitted on the first batch; orthogonal: random"
    )
    projector_learning_rate: float | None = Field(
        default=None, gt=0, description="default: training.learning_rate; it follows the same schedule"
    )


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
