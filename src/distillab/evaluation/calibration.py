"""Whether a model is as sure of its next token as it is right.

Shape letters: N scored positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead, at_head
from distillab.models.scoring import at_scored, scored_targets
from distillab.models.tiling import tiles
from distillab.teachers.signals import log_probabilities

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Confidence (probability of the likeliest token) against how often that token is the right one.

    Attributes:
        tokens: that were judged.
        confidence, accuracy: means over them. A confidence above the accuracy is over-confidence.
        expected_error: Σ over the bins of confidence, share of tokens · |accuracy − confidence| there; 0 to 1.
    """

    tokens: int
    confidence: float
    accuracy: float
    expected_error: float


@torch.no_grad()
def calibration(
    model: PreTrainedModel, rows: Sequence[EncodedRow], *, collator: Collator, batch_size: int, bins: int = BINS
) -> Calibration:
    """How well a model's confidence in its next token fits, over the scored tokens of `rows`.

    Args:
        rows: at least one.
        bins: of equal width between 0 and 1.
    Raises:
        ConfigError: fewer than one bin, or no rows.
    """
    if bins < 1 or not rows:
        raise ConfigError("Calibration needs at least one bin and one row.", facts=[f"bins {bins}, rows {len(rows)}"])
    was_training = model.training
    model.eval()
    found = [
        _batch(model, collator([IndexedRow(index, rows[index]) for index in range(start, stop)]))
        for start, stop in _spans(len(rows), batch_size)
    ]
    model.train(was_training)
    return summarise(
        torch.cat([confidence for confidence, _ in found]), torch.cat([right for _, right in found]), bins=bins
    )


def _batch(model: PreTrainedModel, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """(N,) confidence and (N,) whether it was right, of one batch."""
    device = next(model.parameters()).device
    targets_N = scored_targets(batch).to(device)
    confidence_N = torch.zeros(len(targets_N), dtype=torch.float64)
    right_N = torch.zeros_like(confidence_N)

    def read(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
        hidden_ND, width = at_scored(hidden_BLD, batch), head.weight_VD.shape[0]
        # a tile of rows at a time: nothing of size tokens × vocabulary is made
        for here in tiles(len(targets_N), width, device):
            best = log_probabilities(head.logits(hidden_ND[here]), width, 1.0).max(dim=-1)
            confidence_N[here] = best.values.exp().double().cpu()
            right_N[here] = (best.indices == targets_N[here]).double().cpu()
        return hidden_BLD

    at_head(model, batch, read, device=device)
    return confidence_N, right_N


def _spans(rows: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def summarise(confidence_N: Tensor, right_N: Tensor, *, bins: int = BINS) -> Calibration:
    """Expected calibration error of N predictions.

        E = Σ_b n_b/N · |mean right in b − mean confidence in b|

    Args:
        confidence_N: (N,) probability of the likeliest token, float64, in (0, 1].
        right_N: (N,) 1.0 where it was the right one, else 0.0.
        bins: of equal width; a confidence on a border belongs to the bin below it.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599), equation 3.
    """
    place_N = (confidence_N * bins).ceil().long().sub(1).clamp(0, bins - 1)
    # n_b · |…| / N: the counts cancel, so that the sums of a bin are all that is needed
    gap_b = torch.zeros(bins, dtype=torch.float64).index_add_(0, place_N, right_N - confidence_N)
    return Calibration(
        tokens=len(confidence_N),
        confidence=float(confidence_N.mean()),
        accuracy=float(right_N.mean()),
        expected_error=float(gap_b.abs().sum()) / len(confidence_N),
    )
