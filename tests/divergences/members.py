"""Every divergence with its naive reference: float64 loops over two lists, which share no code with the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from distillab.divergences import divergence

Reference = Callable[[list[float], list[float]], float]


def kl(p: list[float], q: list[float]) -> float:
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += math.inf if b == 0 else a * (math.log(a) - math.log(b))
    return total


def mixed(p: list[float], q: list[float], share: float) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def _jensen_shannon(p: list[float], q: list[float], w: float) -> float:
    m = mixed(p, q, w)
    return w * kl(p, m) + (1 - w) * kl(q, m)


def head_share(p: list[float], q: list[float], mass: float) -> float:
    """g_head / (g_head + g_tail); tokens enter the head by falling probability, equal ones (to rounding) together."""
    head: set[int] = set()
    for level in sorted(set(p), reverse=True):
        if sum(p[i] for i in head) >= mass - 1e-12:
            break
        head |= {i for i, a in enumerate(p) if a >= level * (1 - 1e-14)}
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    return sum(gaps[i] for i in head) / sum(gaps) if sum(gaps) else 0.5


def _adaptive(p: list[float], q: list[float], mass: float) -> float:
    share = head_share(p, q, mass)
    return (share * kl(p, q) if share else 0.0) + ((1 - share) * kl(q, p) if share < 1 else 0.0)


def _total_variation(p: list[float], q: list[float]) -> float:
    # the largest difference that any event makes
    return sum(max(a - b, 0.0) for a, b in zip(p, q, strict=True))


def _alpha_beta(p: list[float], q: list[float], a: float, b: float) -> float:
    """The published general formula, and where it is 0/0 the published limit."""
    # where a logarithm or a negative power needs it, no mass is the limit of ever less of it
    least = 1e-300 if min(a, b) <= 0 else 0.0
    pairs = [(max(x, least), max(y, least)) for x, y in zip(p, q, strict=True) if x > 0 or y > 0]
    total = 0.0
    for x, y in pairs:
        if a == 0 and b == 0:
            total += (math.log(x) - math.log(y)) ** 2 / 2
        elif b == 0:
            total += (x**a * math.log(x**a / y**a) - x**a + y**a) / a**2
        elif a == 0:
            total += (y**b * math.log(y**b / x**b) - y**b + x**b) / b**2
        elif a + b == 0:
            total += (math.log(y**a / x**a) + x**a / y**a - 1) / a**2
        else:
            total -= (x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b)) / (a * b)
    return total


@dataclass(frozen=True)
class Member:
    """A divergence with parameters.

    Attributes:
        name, parameters: as in a recipe.
        reference: over teacher p and student q.
        without_teacher: finite where the student gives mass to a token that the teacher gives none.
        without_student: finite the other way round.
    """

    name: str
    parameters: dict[str, float]
    reference: Reference
    without_teacher: bool
    without_student: bool

    def __call__(self, *, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
        return divergence(self.name, self.parameters)(student_logp=student_logp, teacher_logp=teacher_logp)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{value:g}" for value in self.parameters.values())])


def _skewed_forward(skew: float) -> Reference:
    return lambda p, q: kl(p, mixed(p, q, skew))


def _skewed_reverse(skew: float) -> Reference:
    return lambda p, q: kl(q, mixed(q, p, skew))


def _of(function: Callable[..., float], *parameters: float) -> Reference:
    return lambda p, q: function(p, q, *parameters)


MEMBERS = [
    Member("forward_kl", {}, kl, True, False),
    Member("reverse_kl", {}, lambda p, q: kl(q, p), False, True),
    *(Member("jensen_shannon", {"teacher_weight": w}, _of(_jensen_shannon, w), True, True) for w in (0.1, 0.5, 0.9)),
    *(Member("skewed_forward_kl", {"skew": a}, _skewed_forward(a), True, True) for a in (0.1, 0.6)),
    *(Member("skewed_reverse_kl", {"skew": a}, _skewed_reverse(a), True, True) for a in (0.1, 0.6)),
    *(Member("adaptive_kl", {"head_mass": m}, _of(_adaptive, m), False, False) for m in (0.2, 0.5, 0.95)),
    Member("total_variation", {}, _total_variation, True, True),
    *(
        Member("alpha_beta", {"alpha": a, "beta": b}, _of(_alpha_beta, a, b), no_p, no_q)
        for a, b, no_p, no_q in (
            (0.2, 0.7, True, True),
            (2.0, 1.0, True, True),
            (0.01, 0.02, True, True),
            (1.0, 0.0, True, False),
            (0.4, 0.0, True, False),
            (0.0, 1.0, False, True),
            (0.0, 0.0, False, False),
            (0.5, -0.5, False, False),
            (-0.5, 0.5, False, False),
            (2.0, -1.0, True, False),
            (-1.0, 2.0, False, True),
            (1.0, -2.0, False, False),
            (-1.0, 0.6, False, False),
            (-0.5, -0.25, False, False),
        )
    ),
]
each_member = pytest.mark.parametrize("member", MEMBERS, ids=str)


@st.composite
def distributions(draw: st.DrawFn, sizes: tuple[int, int] = (2, 7)) -> tuple[list[float], list[float]]:
    """Teacher p and student q over one vocabulary, nowhere without mass."""
    n = draw(st.integers(*sizes))
    weight = st.floats(0.01, 1.0)
    p, q = (draw(st.lists(weight, min_size=n, max_size=n)) for _ in range(2))
    return [x / sum(p) for x in p], [x / sum(q) for x in q]


def logp(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """(1, V) log-probabilities."""
    return torch.tensor([values], dtype=torch.float64).log().to(dtype)


def value(function: Callable[..., Tensor], p: list[float], q: list[float]) -> float:
    """A divergence of teacher p and student q in float64."""
    return function(student_logp=logp(q), teacher_logp=logp(p)).item()
