"""The losses between hidden states as loops over plain numbers; they share nothing with the code."""

from __future__ import annotations

import math


def unit(state: list[float]) -> list[float]:
    size = math.sqrt(sum(x * x for x in state) / len(state))
    return [x / size for x in state]


def naive_mse(projected: list[float], t: list[float]) -> float:
    """The student's state, brought to unit size and then projected, against the teacher's."""
    return sum((a - b) ** 2 for a, b in zip(projected, unit(t), strict=True)) / len(t)


def naive_cosine(s: list[float], t: list[float]) -> float:
    dot = sum(a * b for a, b in zip(s, t, strict=True))
    return 1 - dot / math.sqrt(sum(a * a for a in s)) / math.sqrt(sum(b * b for b in t))


def _naive_hsic(x: list[list[float]], y: list[list[float]]) -> float:
    """The unbiased estimate as Song et al. 2012 write it (equation 5), not as U-centred matrices."""
    n = len(x)

    def gram(rows: list[list[float]]) -> list[list[float]]:
        return [
            [0.0 if i == j else sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(n)]
            for i in range(n)
        ]

    k, l = gram(x), gram(y)  # noqa: E741
    trace = sum(k[i][j] * l[j][i] for i in range(n) for j in range(n))
    sums = sum(map(sum, k)) * sum(map(sum, l))
    cross = sum(k[i][j] * l[j][m] for i in range(n) for j in range(n) for m in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross) / (n * (n - 3))


def naive_cka(x: list[list[float]], y: list[list[float]]) -> float:
    return _naive_hsic(x, y) / math.sqrt(_naive_hsic(x, x) * _naive_hsic(y, y))
