"""Divergences that go through a mixture of both distributions. N scored positions, V shared vocabulary."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from distillab.divergences.fused import Evaluated, Probabilities, evaluate, summed_


def jensen_shannon(*, student_logp: Tensor, teacher_logp: Tensor, teacher_weight: float) -> Tensor:
    """Return the generalised Jensen-Shannon divergence per position, in nats.

        M = w·teacher + (1−w)·student
        D_n = w·KL(teacher ‖ M) + (1−w)·KL(student ‖ M)

    D/w → KL(teacher ‖ student) for w → 0 and D/(1−w) → KL(student ‖ teacher) for w → 1; at w = 0 or 1
    D itself is zero, so those ends are refused instead of being given another formula.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
        teacher_weight: w, 0 < w < 1; 0.5 is the symmetric divergence.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), between 0 and H(w) = −w·log w − (1−w)·log(1−w).
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: w is not strictly between 0 and 1, or teacher_logp requires a gradient.
    Source: Agarwal et al. 2023, GKD (arXiv:2306.13649), eq. 1 with β = w.

    >>> p = torch.tensor([[1.0, 0.0]]).log(); q = torch.tensor([[0.0, 1.0]]).log()
    >>> round(jensen_shannon(student_logp=q, teacher_logp=p, teacher_weight=0.5).item(), 4)
    0.6931
    """
    return evaluate(partial(jensen_shannon_formula, teacher_weight=teacher_weight), student_logp, teacher_logp)


def skewed_forward_kl(*, student_logp: Tensor, teacher_logp: Tensor, skew: float) -> Tensor:
    """Return skewed forward KL per position, KL(teacher ‖ α·teacher + (1−α)·student), in nats.

    Forward KL for α → 0. The teacher's share in the mixture bounds it, so that a token to which the student gives
    almost no probability does not dominate the gradient.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
        skew: α, 0 < α < 1; the authors use 0.1.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), between 0 and −log α. The authors' code drops the teacher's
        entropy from the value; here it is the true divergence.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: α is not strictly between 0 and 1, or teacher_logp requires a gradient.
    Source: Ko et al. 2024, DistiLLM (arXiv:2402.03898).

    >>> p = torch.tensor([[1.0, 0.0]]).log(); q = torch.tensor([[0.0, 1.0]]).log()
    >>> round(skewed_forward_kl(student_logp=q, teacher_logp=p, skew=0.5).item(), 4)
    0.6931
    """
    return evaluate(partial(skewed_forward_formula, skew=skew), student_logp, teacher_logp)


def skewed_reverse_kl(*, student_logp: Tensor, teacher_logp: Tensor, skew: float) -> Tensor:
    """Return skewed reverse KL per position, KL(student ‖ (1−α)·teacher + α·student), in nats.

    Reverse KL for α → 0. The gradient also flows through the student's share in the mixture, as in DistiLLM;
    DistiLLM-2 (arXiv:2503.07067) cuts it there, which is another gradient of the same value.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
        skew: α, 0 < α < 1; the authors use 0.1.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), between 0 and −log α.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: α is not strictly between 0 and 1, or teacher_logp requires a gradient.
    Source: Ko et al. 2024, DistiLLM (arXiv:2402.03898).

    >>> p = torch.tensor([[1.0, 0.0]]).log(); q = torch.tensor([[0.0, 1.0]]).log()
    >>> round(skewed_reverse_kl(student_logp=q, teacher_logp=p, skew=0.5).item(), 4)
    0.6931
    """
    return evaluate(partial(skewed_reverse_formula, skew=skew), student_logp, teacher_logp)


def jensen_shannon_formula(student: Probabilities, teacher: Probabilities, *, teacher_weight: float) -> Evaluated:
    """∂D/∂s = (1−w) q log(q/M): the shares of both KLs that come from M itself cancel."""
    _require_inside(teacher_weight, "teacher_weight")
    p, q, w = teacher.prob, student.prob, teacher_weight
    mixture = torch.lerp(q, p, w)
    from_teacher = summed_(_share(p, mixture).log_().mul_(p))
    terms = _share(q, mixture).log_().mul_(q)
    from_student = summed_(terms)
    value = w * from_teacher + (1.0 - w) * from_student
    return Evaluated(value, terms, factor=1.0 - w, total=from_student[:, None])


def skewed_forward_formula(student: Probabilities, teacher: Probabilities, *, skew: float) -> Evaluated:
    """∂D/∂s = (α−1) q p/M."""
    _require_inside(skew, "skew")
    p, q = teacher.prob, student.prob
    ratio = _share(p, torch.lerp(q, p, skew))
    slope = q * ratio
    return Evaluated(summed_(ratio.log_().mul_(p)), slope, factor=skew - 1.0)


def skewed_reverse_formula(student: Probabilities, teacher: Probabilities, *, skew: float) -> Evaluated:
    """∂D/∂s = q (log(q/M) + 1 − α q/M), as ∂M/∂s = α q."""
    _require_inside(skew, "skew")
    p, q = teacher.prob, student.prob
    ratio = _share(q, torch.lerp(p, q, skew))
    from_mixture = q * ratio
    terms = ratio.log_().mul_(q)
    value = summed_(terms)
    return Evaluated(value, terms.sub_(from_mixture, alpha=skew), of_q=1.0)


def _share(first: Tensor, mixture: Tensor) -> Tensor:
    """Return first / mixture as a new tensor.

    It lies between 0 and 1/α; 0/0 means no mass. If the mixture underflows before `first` does, the ratio is set to 1,
    whose logarithm contributes nothing; that of 0 would be infinite.
    """
    ratio = first / mixture
    return ratio if bool((mixture.amin(dim=-1) > 0).all()) else ratio.nan_to_num_(nan=0.0, posinf=1.0)


def _require_inside(weight: float, name: str) -> None:
    if not 0.0 < weight < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {weight}")
