"""Permutation tests: does a signal belong to the tokens at its positions?

A block is a table (n, n): the score of token t under signal s, higher is better. Its diagonal is the pairing as it was
given. If the signal knows nothing of the tokens, every other pairing within the block is as good.

Shapes: n entries of a block, R repetitions, N positions in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REPETITIONS = 499


@dataclass(frozen=True)
class Tested:
    """One statistic, as it was given and against shuffled signals.

    Attributes:
        mean: of the pairing as it was given, for each position.
        shuffled: the mean over all pairings within blocks, exactly.
        spread: standard deviation of the mean under shuffling.
        p: (1 + shuffles that do at least as well) / (1 + shuffles).
        positions: how many.
    """

    mean: float
    shuffled: float
    spread: float
    p: float
    positions: int

    @property
    def gain(self) -> float:
        """The effect: how much better than shuffled, in the unit of the statistic."""
        return self.mean - self.shuffled


def permutation_test(
    blocks: Sequence[Tensor], *, generator: torch.Generator, repetitions: int = REPETITIONS
) -> Tested | None:
    """Shuffle the signals within every block.

    Args:
        blocks: (n, n) float tables, each at least 1 × 1; NaN nowhere.
        generator: decides the shuffles.
    Returns:
        the test; None where no block has two entries, so that nothing can be shuffled.
    """
    blocks = [block.double() for block in blocks if len(block) > 1]
    if not blocks:
        return None
    total = sum(len(block) for block in blocks)
    observed = sum(float(block.diagonal().sum()) for block in blocks)
    expected = sum(float(block.sum()) / len(block) for block in blocks)
    sums = torch.zeros(repetitions, dtype=torch.float64)
    for block in blocks:
        shuffled_Rn = torch.rand(repetitions, len(block), generator=generator).argsort(dim=1)
        sums += block[shuffled_Rn, torch.arange(len(block))].sum(dim=1)
    return Tested(
        mean=observed / total,
        shuffled=expected / total,
        spread=float(sums.std()) / total,
        p=_p(observed, sums),
        positions=total,
    )


def relabelling_test(
    logp_NU: Tensor, kinds_N: Tensor, *, generator: torch.Generator, repetitions: int = REPETITIONS
) -> Tested | None:
    """Shuffle the vocabulary: give every kind of token the name of another one.

    Args:
        logp_NU: (N, U) the log-probability of each of the U ids that occur, under each signal.
        kinds_N: (N,) which of the U ids is there.
    Returns:
        the test; None where fewer than two ids occur.
    """
    ids = logp_NU.shape[1]
    if ids < 2:
        return None
    # the score of id v at all positions of id u
    table_UU = torch.zeros(ids, ids, dtype=torch.float64).index_add_(0, kinds_N, logp_NU.double())
    observed = float(table_UU.diagonal().sum())
    names_RU = torch.rand(repetitions, ids, generator=generator).argsort(dim=1)
    sums = table_UU[torch.arange(ids), names_RU].sum(dim=1)
    total = len(kinds_N)
    return Tested(
        mean=observed / total,
        shuffled=float(table_UU.sum()) / ids / total,
        spread=float(sums.std()) / total,
        p=_p(observed, sums),
        positions=total,
    )


def _p(observed: float, sums: Tensor) -> float:
    # equal pairings are summed in another order and differ in the last digits
    slack = 1e-9 * max(1.0, abs(observed)) if math.isfinite(observed) else 0.0
    return (1 + int((sums >= observed - slack).sum())) / (1 + len(sums))
