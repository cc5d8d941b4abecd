"""Kullback-Leibler divergence in both directions. N scored positions, V shared vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.errors import ShapeError


def forward_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Forward KL per position, KL(teacher ‖ student), in nats.

        D_n = Σ_v exp(t_nv) (t_nv − s_nv)

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order; −inf means exactly no mass.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), ≥ 0; +inf where the student gives no mass to
        a token that the teacher gives some.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
    Source: Hinton et al. 2015 (arXiv:1503.02531) without the T² factor.

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(forward_kl(student_logp=q, teacher_logp=p).item(), 4)
    0.1438
    """
    student, teacher = wide_pair(student_logp, teacher_logp)
    return _kl(teacher, student)


def reverse_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Reverse KL per position, KL(student ‖ teacher), in nats.

        D_n = Σ_v exp(s_nv) (s_nv − t_nv)

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order; −inf means exactly no mass.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), ≥ 0; +inf where the student gives mass to a
        token that the teacher gives none.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
    Source: Gu et al. 2023, MiniLLM (arXiv:2306.08543); here token by token over the full vocabulary, not
        by policy gradient over sequences.

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(reverse_kl(student_logp=q, teacher_logp=p).item(), 4)
    0.1308
    """
    student, teacher = wide_pair(student_logp, teacher_logp)
    return _kl(student, teacher)


def wide_pair(student_logp: Tensor, teacher_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in at least float32, after the shape check that every divergence shares.

    Raises:
        ShapeError: the shapes differ, or are not (N, V).
    """
    if student_logp.shape != teacher_logp.shape or student_logp.dim() != 2:
        raise ShapeError(
            "A divergence compares two (N, V) tensors over one vocabulary.",
            facts=[f"student_logp {tuple(student_logp.shape)}", f"teacher_logp {tuple(teacher_logp.shape)}"],
            fix="flatten the scored positions, and map or cut the vocabularies to the shared tokens first",
        )
    double = torch.float64 in (student_logp.dtype, teacher_logp.dtype)
    dtype = torch.float64 if double else torch.float32
    return student_logp.to(dtype), teacher_logp.to(dtype)


def _kl(p_logp: Tensor, q_logp: Tensor) -> Tensor:
    """Σ_v p (log p − log q), with 0 · (−inf − anything) = 0 in value and gradient."""
    absent = p_logp == -torch.inf
    difference = (p_logp - q_logp).masked_fill(absent, 0.0)
    return (p_logp.exp() * difference).sum(dim=-1)
