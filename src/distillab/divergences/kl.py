"""Kullback-Leibler divergence in both directions. N scored positions, V shared vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.divergences.fused import Evaluated, Probabilities, evaluate, summed_


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
    return evaluate(forward_formula, student_logp, teacher_logp)


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
    return evaluate(reverse_formula, student_logp, teacher_logp)


def kl_terms(first: Probabilities, second: Probabilities) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N,) KL(first ‖ second), new (N, V) summands p·log-ratio, 0 where p is 0, and their sums (N, 1).

    The summands lack p · (difference of both `log_total`), which the value has.
    """
    terms = torch.sub(first.logits, second.logits).mul_(first.prob)
    sums = summed_(terms)[:, None]
    return (sums - first.log_total_less(second))[:, 0], terms, sums


def forward_formula(student: Probabilities, teacher: Probabilities) -> Evaluated:
    """∂D/∂s = −p."""
    value, _, sums = kl_terms(teacher, student)
    return Evaluated(value, teacher.prob, factor=-1.0, total=torch.ones_like(sums))


def reverse_formula(student: Probabilities, teacher: Probabilities) -> Evaluated:
    """∂D/∂s = q (log(q/p) + 1)."""
    value, terms, sums = kl_terms(student, teacher)
    return Evaluated(value, terms, of_q=1.0, total=sums)
