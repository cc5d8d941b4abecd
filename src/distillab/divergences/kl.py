"""Kullback-Leibler divergence in both directions. N scored positions, V shared vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.divergences.fused import evaluate, nothing_from_no_mass_


def forward_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Return forward KL per position, KL(teacher ‖ student), in nats.

        D_n = Σ_v exp(t_nv) (t_nv − s_nv)

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), ≥ 0; +inf if the student gives zero probability to
        a token that the teacher gives some.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: teacher_logp requires a gradient.
    Source: Hinton et al. 2015 (arXiv:1503.02531) without the T² factor.

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(forward_kl(student_logp=q, teacher_logp=p).item(), 4)
    0.1438
    """
    return evaluate(_forward, student_logp, teacher_logp)


def reverse_kl(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Return reverse KL per position, KL(student ‖ teacher), in nats.

        D_n = Σ_v exp(s_nv) (s_nv − t_nv)

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), ≥ 0; +inf if the student gives probability to a
        token that the teacher gives none.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: teacher_logp requires a gradient.
    Source: Gu et al. 2023, MiniLLM (arXiv:2306.08543); here token by token over the full vocabulary, not
        by policy gradient over sequences.

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(reverse_kl(student_logp=q, teacher_logp=p).item(), 4)
    0.1308
    """
    return evaluate(_reverse, student_logp, teacher_logp)


def kl_terms(p_logp: Tensor, q_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Return p and p (log p − log q), both new (N, V) tensors: the summands of KL(p ‖ q), 0 where p is 0."""
    p = p_logp.exp()
    return p, nothing_from_no_mass_(torch.sub(p_logp, q_logp).mul_(p))


def _forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    p, terms = kl_terms(teacher, student)
    return terms.sum(dim=-1), p.neg_()


def _reverse(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    q, terms = kl_terms(student, teacher)
    return terms.sum(dim=-1), terms.add_(q)
