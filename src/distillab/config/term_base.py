"""Settings that terms have in common: weight, access level, tokens, divergence."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

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
ProjectorRate = Annotated[
    float | None, Field(gt=0, description="default: training.learning_rate; it follows the same schedule")
]


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


class DivergenceTermConfig(BaseTermConfig):
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
    def _parameters_belong_to_the_divergence(self) -> DivergenceTermConfig:
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
