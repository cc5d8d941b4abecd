"""Measure calibration: how far a model's confidence in its next token differs from its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.errors import ConfigError

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Confidence (probability of the most likely token) against how often that token is right.

    Attributes:
        tokens: scored.
        confidence, accuracy: means over them. A confidence above the accuracy is over-confidence.
        expected_error: Σ over the bins of confidence, share of tokens · |accuracy − confidence| there; 0 to 1.
    """

    tokens: int
    confidence: float
    accuracy: float
    expected_error: float


def calibration(confidence_N: Tensor, right_N: Tensor, *, bins: int = BINS) -> Calibration:
    """Return the expected calibration error of N predictions.

        E = Σ_b n_b/N · |mean right in b − mean confidence in b|

    Args:
        confidence_N: (N,) probability of the most likely token, float64, in (0, 1].
        right_N: (N,) 1.0 where it was right, else 0.0.
        bins: of equal width; a confidence on a border belongs to the bin below it.
    Raises:
        ConfigError: fewer than one bin, or no predictions.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599), equation 3.
    """
    if bins < 1 or not len(confidence_N):
        raise ConfigError(
            "Calibration needs at least one bin and one prediction.",
            facts=[f"bins {bins}, predictions {len(confidence_N)}"],
        )
    place_N = (confidence_N * bins).ceil().long().sub(1).clamp(0, bins - 1)
    # n_b · |…| / N: the counts cancel, so that the sums of a bin are all that is needed
    gap_b = torch.zeros(bins, dtype=torch.float64).index_add_(0, place_N, right_N - confidence_N)
    return Calibration(
        tokens=len(confidence_N),
        confidence=float(confidence_N.mean()),
        accuracy=float(right_N.mean()),
        expected_error=float(gap_b.abs().sum()) / len(confidence_N),
    )
