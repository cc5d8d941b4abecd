"""The α-β family of divergences. N scored positions, V shared vocabulary."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from distillab.divergences.fused import Evaluated, Probabilities, evaluate, nothing_from_no_mass_

# Below this both powers are so close to 1 that float32 keeps too little of their differences.
_SMALL = 0.05
# And below this float64 does, unless both are exactly 0.
_LEAST = 1e-6


def alpha_beta(*, student_logp: Tensor, teacher_logp: Tensor, alpha: float, beta: float) -> Tensor:
    """Return the α-β divergence per position.

        D_n = −1/(αβ) Σ_v [ p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β) ]      p teacher, q student

    and where that is 0/0, its limits

        β = 0       1/α² Σ_v [ p^α log(p^α/q^α) − p^α + q^α ]        α = 1: forward KL
        α = 0       1/β² Σ_v [ q^β log(q^β/p^β) − q^β + p^β ]        β = 1: reverse KL
        α + β = 0   1/α² Σ_v [ log(q^α/p^α) + p^α/q^α − 1 ]
        α = β = 0   ½ Σ_v (log p − log q)²

    All of them are one expression, and are computed as one: with d = log q − log p,

        D_n = Σ_v (A − C)/β = Σ_v (A + B)/(α+β)
        A = (q^(α+β) − p^α q^β)/α     B = (p^(α+β) − p^α q^β)/β     C = (q^(α+β) − p^(α+β))/(α+β)

    where each quotient has a limit (A → q^β d for α → 0, and so on), so values near a limit are as exact
    as others. A is also the slope ∂D/∂log q.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass. A token without
            mass in both contributes nothing.
        alpha: power of the teacher's probability; small values spread the attention over the vocabulary.
        beta: power of the student's probability; the authors take α = 0.2, β = 0.7 for small students. Negative
            powers are computed in float64, and are infinite where only one distribution gives no mass.
    Returns:
        (N,) float32 (float64 for float64 inputs), ≥ 0; nats where α + β = 1.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: α or β is not a finite number, or both are below 10⁻⁶ but not 0 (nothing would be left of the
            difference of their powers), or teacher_logp requires a gradient.
    Source: Wang et al. 2025, ABKD (arXiv:2505.04560); limits: Cichocki, Cruces and Amari 2011 (Entropy 13, 134-170).

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(alpha_beta(student_logp=q, teacher_logp=p, alpha=1.0, beta=0.0).item(), 4)  # forward KL
    0.1438
    """
    return evaluate(partial(alpha_beta_formula, alpha=alpha, beta=beta), student_logp, teacher_logp)


def alpha_beta_formula(student: Probabilities, teacher: Probabilities, *, alpha: float, beta: float) -> Evaluated:
    """∂D/∂s = A."""
    if not (abs(alpha) < float("inf") and abs(beta) < float("inf")):
        raise ValueError(f"alpha and beta must be finite numbers, got {alpha} and {beta}")
    if 0 < max(abs(alpha), abs(beta)) < _LEAST:
        raise ValueError(f"alpha and beta must be 0 or one of them at least {_LEAST}, got {alpha} and {beta}")
    value, slope = _alpha_beta(student.logp, teacher.logp, alpha=alpha, beta=beta)
    return Evaluated(value, slope)


def _alpha_beta(student: Tensor, teacher: Tensor, *, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    if student.dtype != torch.float64 and (min(alpha, beta) < 0 or max(alpha, beta) < _SMALL):
        value, slope = _alpha_beta(student.double(), teacher.double(), alpha=alpha, beta=beta)
        return value.to(student.dtype), slope.to(student.dtype)
    total = alpha + beta
    d = student - teacher
    if alpha == 0 and beta == 0:
        nothing_from_no_mass_(d)
        return 0.5 * d.square().sum(dim=-1), d
    cross = _weighted(teacher, alpha, student, beta)  # log p^α q^β
    slope = _quotient(_weighted(student, total, student, 0.0), cross, d, alpha)
    if abs(total) >= abs(beta):
        # B by its negative: log p^α q^β − log p^(α+β) = β·d
        other, divisor = _quotient(_weighted(teacher, total, teacher, 0.0), cross, d, beta), total
    else:
        p_total, q_total = (_weighted(logp, total, logp, 0.0) for logp in (teacher, student))
        other, divisor = _quotient(p_total, q_total, d, total), beta
    terms = torch.sub(slope, other, out=other)
    if min(alpha, beta) < 0:
        _settle_negative_powers(terms.mul_(1.0 / divisor), slope, student, teacher, alpha, beta)
        return terms.sum(dim=-1), slope
    return nothing_from_no_mass_(terms).sum(dim=-1) / divisor, nothing_from_no_mass_(slope)


def _weighted(first: Tensor, a: float, second: Tensor, b: float) -> Tensor:
    """Return a·first + b·second as a new tensor; a factor of 0 also removes −inf."""
    if a == 0:
        return second * b if b != 0 else torch.zeros_like(second)
    return first * a if b == 0 else (first * a).add_(second, alpha=b)


def _quotient(u: Tensor, v: Tensor, d: Tensor, k: float) -> Tensor:
    """Return (e^u − e^v)/k for |u − v| = |k·d|, with the sign of d; u is overwritten, no digits cancel.

    For k = 0, where u = v, it is the limit e^u·d.
    """
    if k == 0:
        return nothing_from_no_mass_(u.exp_().mul_(d))
    fall = d.abs().mul_(-abs(k)).expm1_().copysign_(d)
    # equal: 0, also where the powers themselves are too large for a number
    return torch.maximum(u, v, out=u).exp_().mul_(fall).mul_(1.0 / abs(k)).masked_fill_(d == 0, 0.0)


def _settle_negative_powers(
    terms: Tensor, slope: Tensor, student: Tensor, teacher: Tensor, alpha: float, beta: float
) -> None:
    """Set in place the contributions of outcomes whose powers are infinite or overflow (∞ − ∞ is undefined)."""
    no_p, no_q = teacher == -torch.inf, student == -torch.inf
    terms.masked_fill_(terms.isnan() & ~(student.isnan() | teacher.isnan()), torch.inf)
    terms.masked_fill_(no_p & no_q, 0.0)
    slope.masked_fill_(no_p & no_q, 0.0)
