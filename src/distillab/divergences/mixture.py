"""Divergences that go through a mixture of both distributions. N scored positions, V shared vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillab.divergences.kl import forward_kl, wide_pair


def jensen_shannon(*, student_logp: Tensor, teacher_logp: Tensor, teacher_weight: float) -> Tensor:
    """Generalised Jensen-Shannon divergence per position, in nats.

        M = w·teacher + (1−w)·student
        D_n = w·KL(teacher ‖ M) + (1−w)·KL(student ‖ M)

    D/w → KL(teacher ‖ student) for w → 0 and D/(1−w) → KL(student ‖ teacher) for w → 1; at w = 0 or 1
    D itself is zero, so those ends are refused instead of being given another formula.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order; −inf means exactly no mass.
        teacher_weight: w, 0 < w < 1; 0.5 is the symmetric divergence.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), between 0 and H(w) = −w·log w − (1−w)·log(1−w).
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: w is not strictly between 0 and 1.
    Source: Agarwal et al. 2023, GKD (arXiv:2306.13649), eq. 1 with β = w.

    >>> p = torch.tensor([[1.0, 0.0]]).log(); q = torch.tensor([[0.0, 1.0]]).log()
    >>> round(jensen_shannon(student_logp=q, teacher_logp=p, teacher_weight=0.5).item(), 4)
    0.6931
    """
    if not 0.0 < teacher_weight < 1.0:
        raise ValueError(f"teacher_weight must lie strictly between 0 and 1, got {teacher_weight}")
    student, teacher = wide_pair(student_logp, teacher_logp)
    mixture = _log_mixture(teacher + math.log(teacher_weight), student + math.log1p(-teacher_weight))
    from_teacher = forward_kl(student_logp=mixture, teacher_logp=teacher)
    from_student = forward_kl(student_logp=mixture, teacher_logp=student)
    return teacher_weight * from_teacher + (1.0 - teacher_weight) * from_student


def _log_mixture(a: Tensor, b: Tensor) -> Tensor:
    """log(eᵃ + eᵇ); where both are −inf the result is −inf with zero gradient (logaddexp gives NaN there)."""
    absent = (a == -torch.inf) & (b == -torch.inf)
    return torch.logaddexp(a.masked_fill(absent, 0.0), b.masked_fill(absent, 0.0)).masked_fill(absent, -torch.inf)
