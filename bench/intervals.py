"""`python -m bench.intervals`: how often the interval of a paired comparison covers the true difference.

Simulated studies of 3, 5 and 10 seeds on 50, 200 and 500 held-out rows of 5 to 60 tokens. A difference is an effect of
the seed, one of the row and one of both together, all drawn from one distribution: normal; skewed (exponential); heavy
tails (t with 3 degrees of freedom); outlying (one draw of 50 is ten times as large). Which of the three rules the
variance of the mean differs: 90 % of it from one and 5 % from each other, or a third from each. Prints the table of
docs/statistics.md; some minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillab.evaluation.intervals import spread

SEEDS, ROWS = (3, 5, 10), (50, 200, 500)
DISTRIBUTIONS = ("normal", "skewed", "heavy", "outlying")
SHARES = {
    "seed": (0.9, 0.05, 0.05),
    "row": (0.05, 0.9, 0.05),
    "seed × row": (0.05, 0.05, 0.9),
    "alike": (1 / 3, 1 / 3, 1 / 3),
}
LOWEST, HIGHEST = 0.93, 0.985
_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Cell:
    """One kind of study."""

    seeds: int
    rows: int
    distribution: str
    rules: str


def cells() -> list[Cell]:
    """All of them."""
    return [Cell(*which) for which in itertools.product(SEEDS, ROWS, DISTRIBUTIONS, SHARES)]


def coverage(cell: Cell, *, studies: int, seed: int) -> float:
    """Share of simulated studies whose 95 % interval holds the true difference, which is 0."""
    generator = np.random.default_rng([seed, cell.seeds, cell.rows])
    covered, left = 0, studies
    while left:
        now = min(left, max(1, _AT_ONCE // (cell.seeds * cell.rows)))
        left -= now
        found = spread(*simulated(cell, now, generator))
        covered += int((np.abs(found.mean) <= found.half_width(0.05)).sum())
    return covered / studies


def simulated(
    cell: Cell, studies: int, generator: np.random.Generator, *, tokens: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, S, R) differences in nats of a row and (N, R) tokens; the true difference is 0."""
    if tokens is None:
        tokens = generator.integers(5, 61, size=(studies, cell.rows)).astype(np.float64)
    sizes = (cell.seeds, cell.rows, cell.seeds * cell.rows)
    shapes = ((studies, cell.seeds, 1), (studies, 1, cell.rows), (studies, cell.seeds, cell.rows))
    effects = [
        np.sqrt(share * size) * draw(cell.distribution, shape, generator)
        for share, size, shape in zip(SHARES[cell.rules], sizes, shapes, strict=True)
    ]
    return (effects[0] + effects[1] + effects[2]) * tokens[:, None], tokens


def draw(distribution: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float64]:
    """Values with mean 0 and variance 1."""
    if distribution == "skewed":
        return generator.exponential(size=shape) - 1
    if distribution == "heavy":
        return generator.standard_t(3, size=shape) / np.sqrt(3)
    values = generator.standard_normal(shape)
    if distribution == "outlying":
        values *= np.where(generator.random(shape) < 0.02, 10.0, 1.0)
        values /= np.sqrt(0.98 + 0.02 * 100)
    return values


def false_claims(cell: Cell, *, arms: int, studies: int, seed: int) -> float:
    """Share of simulated studies in which some arm that is like the baseline is taken for another.

    The arms share the baseline's noise: half of each difference's variance is common to all. The smallest of `arms`
    p-values, times their number, is Holm's first; it is below 0.05 where that interval misses 0.
    """
    generator = np.random.default_rng([seed, arms])
    common, tokens = simulated(cell, studies, generator)
    wrong = np.zeros(studies, dtype=np.bool_)
    for _ in range(arms):
        found = spread(common + simulated(cell, studies, generator, tokens=tokens)[0], tokens)
        wrong |= np.abs(found.mean) > found.half_width(0.05 / arms)
    return float(wrong.mean())


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: every cell is within the bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.intervals", description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    options = parser.parse_args(arguments)
    print("| seeds | effects | " + " | ".join(f"{name} rules" for name in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    outside = []
    for seeds, distribution in itertools.product(SEEDS, DISTRIBUTIONS):
        shown = []
        for rules in SHARES:
            found = {
                rows: coverage(Cell(seeds, rows, distribution, rules), studies=options.studies, seed=0) for rows in ROWS
            }
            outside += [
                (seeds, rows, distribution, rules, c) for rows, c in found.items() if not LOWEST <= c <= HIGHEST
            ]
            shown.append(" / ".join(f"{100 * found[rows]:.1f}" for rows in ROWS))
        print(f"| {seeds} | {distribution} | {' | '.join(shown)} |", flush=True)
    for arms, rules in itertools.product((2, 6), SHARES):
        rate = false_claims(Cell(3, 50, "normal", rules), arms=arms, studies=options.studies, seed=0)
        print(f"{arms} arms like the baseline, {rules} rules: {100 * rate:.1f} % of the studies claim a difference")
    print(f"outside of {100 * LOWEST:g} to {100 * HIGHEST:g} %: {outside or 'none'}")
    return int(bool(outside))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
