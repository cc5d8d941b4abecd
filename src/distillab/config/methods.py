"""Methods: named pairs of whose answers the student reads and which terms are summed.

A new method is one file in `objectives/`, one class in `config/terms.py` and one line in `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distillab.config.terms import (
    AttentionRelationsConfig,
    CrossEntropyConfig,
    HiddenStatesConfig,
    LinearWeight,
    TermConfig,
    TokenDivergenceConfig,
    TokenNeed,
)
from distillab.records import ACCESS_ORDER, AccessLevel

Answers = Literal["dataset", "teacher"]


@dataclass(frozen=True)
class Method:
    """A named pair of choices."""

    answers: Answers
    terms: tuple[TermConfig, ...]
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


# Inner states lead first and fade out: a narrow student cannot hold a wide teacher's, and at the end its own task must
# decide. Attention relations have gradients of very different size from model to model, so theirs are measured.
# docs/experiments.md has the runs behind these numbers.
_HINTS = HiddenStatesConfig(weight=LinearWeight(start=10.0, end=0.0))


def _relations(start: float) -> AttentionRelationsConfig:
    return AttentionRelationsConfig(weight=LinearWeight(start=start, end=0.0, balanced=True))


METHODS: dict[str, Method] = {
    "sft": Method("dataset", (CrossEntropyConfig(),), "supervised fine-tuning on the data set's answers"),
    "seqkd": Method("teacher", (CrossEntropyConfig(),), "sequence-level KD: fine-tuning on the teacher's answers"),
    "logits": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5)),
        "cross-entropy and the teacher's next-token distribution",
    ),
    "hidden_states": Method(
        "dataset", (CrossEntropyConfig(), _HINTS), "cross-entropy and, fading out, the teacher's hidden states"
    ),
    "attention": Method(
        "dataset",
        (CrossEntropyConfig(), _relations(1.0)),
        "cross-entropy and the relations between the teacher's queries, keys and values",
    ),
    "white_box": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5), _HINTS, _relations(0.1)),
        "cross-entropy and everything: next-token distribution, hidden states, attention",
    ),
}
