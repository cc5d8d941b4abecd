"""Settings of terms -> terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillab.config.terms import (
    AttentionMapsConfig,
    AttentionRelationsConfig,
    ContrastiveConfig,
    CrossEntropyConfig,
    DualSpaceConfig,
    HiddenStatesConfig,
    MergedSpansConfig,
    SampledDivergenceConfig,
    SortedProbabilitiesConfig,
    SpanHiddenStatesConfig,
    SpanLikelihoodConfig,
    TermConfig,
    TokenDivergenceConfig,
    TopKDivergenceConfig,
    VocabularyProjectionConfig,
)
from distillab.data.vocabularies import Vocabularies
from distillab.errors import ConfigError, TeacherError
from distillab.models.structure import ModelShape
from distillab.objectives.attention_maps import AttentionMaps
from distillab.objectives.attention_relations import AttentionRelations
from distillab.objectives.contrastive import Contrastive
from distillab.objectives.cross_entropy import CrossEntropy
from distillab.objectives.dual_space import DualSpace
from distillab.objectives.hidden_states import HiddenStates
from distillab.objectives.merged_spans import MergedSpans
from distillab.objectives.sampled_divergence import SampledDivergence
from distillab.objectives.sorted_probabilities import SortedProbabilities
from distillab.objectives.span_hidden_states import SpanHiddenStates
from distillab.objectives.span_likelihood import SpanLikelihood
from distillab.objectives.term import Objective, Term, WeightedTerm
from distillab.objectives.token_divergence import TokenDivergence
from distillab.objectives.top_k_divergence import TopKDivergence
from distillab.objectives.vocabulary_projection import VocabularyProjection


def build_objective(
    settings: Sequence[TermConfig],
    *,
    shared_width: int,
    student: ModelShape | None = None,
    teacher: ModelShape | None = None,
    vocabularies: Vocabularies | None = None,
) -> Objective:
    """The objective of a run.

    Args:
        settings: the terms of the recipe.
        shared_width: ids that mean the same on both sides; 0 where the method compares none.
        student, teacher: sizes of the two models, for terms on activations.
        vocabularies: both, for terms on two tokenisations.
    Raises:
        ConfigError: a term does not fit the two models.
        TeacherError: a term on activations or on two tokenisations, and no teacher.
    """
    kinds = [item.kind for item in settings]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
    sides = _Sides(shared_width, student, teacher, vocabularies)
    return Objective(
        tuple(WeightedTerm(name, _term(item, sides), item.weight) for name, item in zip(names, settings, strict=True))
    )


@dataclass(frozen=True)
class _Sides:
    """What is known of both models."""

    shared_width: int
    student: ModelShape | None
    teacher: ModelShape | None
    vocabularies: Vocabularies | None

    def shapes(self, kind: str) -> tuple[ModelShape, ModelShape]:
        if self.student is None or self.teacher is None:
            raise TeacherError(f"The term {kind} needs a teacher model, and there is none.")
        return self.student, self.teacher

    def attending(self, kind: str) -> tuple[ModelShape, ModelShape]:
        """The shapes of two models with attention."""
        both = self.shapes(kind)
        without = [name for name, shape in zip(("student", "teacher"), both, strict=True) if not shape.heads]
        if without:
            raise ConfigError(
                f"The term {kind} compares attention, and there is none in the {' nor in the '.join(without)}.",
                fix="use a method that reads text or logits, or hidden_states",
            )
        return both

    def both_vocabularies(self, kind: str) -> Vocabularies:
        if self.vocabularies is None:
            raise TeacherError(f"The term {kind} needs the vocabularies of both tokenizers.")
        return self.vocabularies


def _term(settings: TermConfig, sides: _Sides) -> Term:
    if settings.tokens == "aligned":
        return _aligned_term(settings, sides)
    match settings:
        case CrossEntropyConfig():
            return CrossEntropy()
        case TokenDivergenceConfig():
            return TokenDivergence(settings, shared_width=sides.shared_width)
        case TopKDivergenceConfig():
            return TopKDivergence(settings, shared_width=sides.shared_width)
        case SampledDivergenceConfig():
            return SampledDivergence(settings, shared_width=sides.shared_width)
    student, teacher = sides.shapes(settings.kind)
    match settings:
        case HiddenStatesConfig():
            return HiddenStates(settings, student=student, teacher=teacher)
        case AttentionRelationsConfig():
            student, teacher = sides.attending(settings.kind)
            return AttentionRelations(settings, student=student, teacher=teacher)
        case AttentionMapsConfig():
            student, teacher = sides.attending(settings.kind)
            return AttentionMaps(settings, student=student, teacher=teacher)
    raise AssertionError(settings.kind)


def _aligned_term(settings: TermConfig, sides: _Sides) -> Term:
    """A term on two tokenisations of the same text."""
    match settings:
        case VocabularyProjectionConfig():
            return VocabularyProjection(settings, vocabularies=sides.both_vocabularies(settings.kind))
        case SpanLikelihoodConfig():
            both = sides.both_vocabularies(settings.kind)
            return SpanLikelihood(settings, student_starts=both.student_starts, teacher_starts=both.teacher_starts)
        case SortedProbabilitiesConfig():
            widths = sides.both_vocabularies(settings.kind)
            return SortedProbabilities(settings, student_width=widths.student_width, teacher_width=widths.teacher_width)
        case MergedSpansConfig():
            return MergedSpans(settings, vocabularies=sides.both_vocabularies(settings.kind))
        case SpanHiddenStatesConfig():
            student, teacher = sides.shapes(settings.kind)
            return SpanHiddenStates(settings, student=student, teacher=teacher)
        case ContrastiveConfig():
            student, teacher = sides.shapes(settings.kind)
            return Contrastive(settings, student=student, teacher=teacher)
        case DualSpaceConfig():
            student, teacher = sides.shapes(settings.kind)
            widths = sides.both_vocabularies(settings.kind)
            return DualSpace(
                settings,
                student=student,
                teacher=teacher,
                student_width=widths.student_width,
                teacher_width=widths.teacher_width,
            )
    raise AssertionError(settings.kind)
