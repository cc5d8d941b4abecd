"""Settings of terms -> terms."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.config.methods import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.term import Objective, Term, WeightedTerm
from distillab.objectives.token_divergence import TokenDivergence


def build_objective(settings: Sequence[TermConfig], *, shared_width: int) -> Objective:
    """The objective of a run.

    Args:
        settings: the terms of the recipe.
        shared_width: ids that mean the same on both sides; 0 where the method compares none.
    """
    kinds = [item.kind for item in settings]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
    return Objective(
        tuple(
            WeightedTerm(name, _term(item, shared_width), item.weight)
            for name, item in zip(names, settings, strict=True)
        )
    )


def _term(settings: TermConfig, shared_width: int) -> Term:
    match settings:
        case CrossEntropyConfig():
            return CrossEntropy()
        case TokenDivergenceConfig():
            return TokenDivergence(settings, shared_width=shared_width)
