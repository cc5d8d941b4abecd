"""Settings of terms -> terms."""

from __future__ import annotations

from collections.abc import Sequence

from distillab.config.terms import (
    AttentionMapsConfig,
    AttentionRelationsConfig,
    CrossEntropyConfig,
    HiddenStatesConfig,
    SampledDivergenceConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
)
from distillab.errors import TeacherError
from distillab.models.structure import ModelShape
from distillab.objectives.attention_maps import AttentionMaps
from distillab.objectives.attention_relations import AttentionRelations
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.hidden_states import HiddenStates
from distillab.objectives.sampled_divergence import SampledDivergence
from distillab.objectives.term import InnerTerm, Objective, Term, WeightedTerm
from distillab.objectives.token_divergence import TokenDivergence
from distillab.objectives.top_k_divergence import TopKDivergence


def build_objective(
    settings: Sequence[TermConfig],
    *,
    shared_width: int,
    student: ModelShape | None = None,
    teacher: ModelShape | None = None,
) -> Objective:
    """The objective of a run.

    Args:
        settings: the terms of the recipe.
        shared_width: ids that mean the same on both sides; 0 where the method compares none.
        student, teacher: sizes of the two models, for terms on inner states.
    Raises:
        ConfigError: a term on inner states does not fit the two models.
        TeacherError: a term on inner states, and no teacher.
    """
    kinds = [item.kind for item in settings]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
    return Objective(
        tuple(
            WeightedTerm(name, _term(item, shared_width, student, teacher), item.weight)
            for name, item in zip(names, settings, strict=True)
        )
    )


def _term(settings: TermConfig, shared_width: int, student: ModelShape | None, teacher: ModelShape | None) -> Term:
    match settings:
        case CrossEntropyConfig():
            return CrossEntropy()
        case TokenDivergenceConfig():
            return TokenDivergence(settings, shared_width=shared_width)
        case TopKDivergenceConfig():
            return TopKDivergence(settings, shared_width=shared_width)
        case SampledDivergenceConfig():
            return SampledDivergence(settings, shared_width=shared_width)
        case _:
            if student is None or teacher is None:
                raise TeacherError(f"The term {settings.kind} needs a teacher model, and there is none.")
            return _inner_term(settings, student, teacher)


def _inner_term(
    settings: HiddenStatesConfig | AttentionRelationsConfig | AttentionMapsConfig,
    student: ModelShape,
    teacher: ModelShape,
) -> InnerTerm:
    match settings:
        case HiddenStatesConfig():
            return HiddenStates(settings, student=student, teacher=teacher)
        case AttentionRelationsConfig():
            return AttentionRelations(settings, student=student, teacher=teacher)
        case AttentionMapsConfig():
            return AttentionMaps(settings, student=student, teacher=teacher)
