"""Terms and methods: what each needs is said here, once.

A method is two choices: whose answers the student reads, and which terms are summed. A new method is
one file in `objectives/`, one class here and one line in `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillab.records import ACCESS_ORDER, AccessLevel

TokenNeed = Literal["shared", "any"]
Answers = Literal["dataset", "teacher"]


class _Term(BaseModel):
    """Base of the term settings. `access` and `tokens` say what the term needs of the pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    access: ClassVar[AccessLevel] = "none"
    tokens: ClassVar[TokenNeed] = "any"
    weight: float = Field(default=1.0, gt=0, description="factor of this term in the sum")


class CrossEntropyConfig(_Term):
    """Next-token cross-entropy against the tokens of the answer."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class TokenDivergenceConfig(_Term):
    """Divergence between the teacher's and the student's next-token distributions, index by index."""

    access: ClassVar[AccessLevel] = "logits"
    tokens: ClassVar[TokenNeed] = "shared"
    kind: Literal["token_divergence"] = "token_divergence"
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    teacher_weight: float | None = Field(
        default=None, gt=0, lt=1, description="w of jensen_shannon, M = w·teacher + (1-w)·student"
    )
    temperature: float = Field(default=1.0, gt=0, description="both sides' logits are divided by it")
    rescale_by_temperature_squared: bool = Field(
        default=False, description="multiply by temperature² (Hinton et al. 2015)"
    )

    @model_validator(mode="after")
    def _weight_belongs_to_jensen_shannon(self) -> TokenDivergenceConfig:
        if self.divergence == "jensen_shannon" and self.teacher_weight is None:
            raise ValueError("jensen_shannon needs teacher_weight, between 0 and 1 (0.5 is the symmetric one)")
        if self.divergence != "jensen_shannon" and self.teacher_weight is not None:
            raise ValueError(f"teacher_weight belongs to jensen_shannon; {self.divergence} has no such setting")
        return self


TermConfig = Annotated[CrossEntropyConfig | TokenDivergenceConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class Method:
    """A named pair of choices."""

    answers: Answers
    terms: tuple[CrossEntropyConfig | TokenDivergenceConfig, ...]
    summary: str

    @property
    def access(self) -> AccessLevel:
        """The highest access level that the answers or any term needs."""
        needed: list[AccessLevel] = [term.access for term in self.terms]
        needed.append("text" if self.answers == "teacher" else "none")
        return max(needed, key=ACCESS_ORDER.index)

    @property
    def tokens(self) -> TokenNeed:
        """`shared` where any term compares tokens by their ids."""
        return "shared" if any(term.tokens == "shared" for term in self.terms) else "any"


METHODS: dict[str, Method] = {
    "sft": Method("dataset", (CrossEntropyConfig(),), "supervised fine-tuning on the data set's answers"),
    "seqkd": Method("teacher", (CrossEntropyConfig(),), "sequence-level KD: fine-tuning on the teacher's answers"),
    "logits": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5)),
        "cross-entropy and the teacher's next-token distribution",
    ),
}
