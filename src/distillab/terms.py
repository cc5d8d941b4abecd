"""The terms of an objective, under the names of `dl.terms`: `dl.terms.TokenDivergence(divergence="reverse_kl")`.

Each is the settings class of `distillab.config`, so a recipe and a notebook write the same settings.
"""

from distillab.config.layer_terms import AttentionMapsConfig as AttentionMaps
from distillab.config.layer_terms import AttentionRelationsConfig as AttentionRelations
from distillab.config.layer_terms import ContrastiveConfig as Contrastive
from distillab.config.layer_terms import HiddenStatesConfig as HiddenStates
from distillab.config.layer_terms import SpanHiddenStatesConfig as SpanHiddenStates
from distillab.config.term_base import LinearWeight
from distillab.config.terms import CrossEntropyConfig as CrossEntropy
from distillab.config.terms import CustomDivergenceConfig as CustomDivergence
from distillab.config.terms import CustomLossConfig as CustomLoss
from distillab.config.terms import DualSpaceConfig as DualSpace
from distillab.config.terms import MeasuredTransportConfig as MeasuredTransport
from distillab.config.terms import MergedSpansConfig as MergedSpans
from distillab.config.terms import SampledDivergenceConfig as SampledDivergence
from distillab.config.terms import SortedProbabilitiesConfig as SortedProbabilities
from distillab.config.terms import SpanLikelihoodConfig as SpanLikelihood
from distillab.config.terms import TokenDivergenceConfig as TokenDivergence
from distillab.config.terms import TopKDivergenceConfig as TopKDivergence
from distillab.config.terms import TopKTransportConfig as TopKTransport
from distillab.config.terms import VocabularyProjectionConfig as VocabularyProjection

__all__ = [
    "AttentionMaps",
    "AttentionRelations",
    "Contrastive",
    "CrossEntropy",
    "CustomDivergence",
    "CustomLoss",
    "DualSpace",
    "HiddenStates",
    "LinearWeight",
    "MeasuredTransport",
    "MergedSpans",
    "SampledDivergence",
    "SortedProbabilities",
    "SpanHiddenStates",
    "SpanLikelihood",
    "TokenDivergence",
    "TopKDivergence",
    "TopKTransport",
    "VocabularyProjection",
]
