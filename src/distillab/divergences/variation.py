"""Total variation: a distance without logarithms. N scored positions, V shared vocabulary."""

from __future__ import annotations

from torch import Tensor

from distillab.divergences.fused import Evaluated, Probabilities, evaluate


def total_variation(*, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Return total variation per position: the mass to move to turn one distribution into the other.

        D_n = ½ Σ_v |exp(t_nv) − exp(s_nv)|

    1 − D is the acceptance rate of speculative decoding with the student as draft model. Where both give a token the
    same probability, the gradient at the kink is 0. As the gradient does not fade near the teacher, it converges less
    finely than a KL.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
    Returns:
        (N,) float32 (float64 for float64 inputs) between 0 and 1: a probability, not nats.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: teacher_logp requires a gradient.
    Source: Wen et al. 2023, f-DISTILL (arXiv:2307.15190).

    >>> import torch
    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(total_variation(student_logp=q, teacher_logp=p).item(), 4)
    0.25
    """
    return evaluate(total_variation_formula, student_logp, teacher_logp)


def total_variation_formula(student: Probabilities, teacher: Probabilities) -> Evaluated:
    """∂D/∂s = −½ q sign(p − q)."""
    excess = teacher.prob - student.prob
    return Evaluated(0.5 * excess.abs().sum(dim=-1), excess.sign_().mul_(student.prob), factor=-0.5)
