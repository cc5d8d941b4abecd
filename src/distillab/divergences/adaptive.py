"""Adaptive mix of forward and reverse KL (AKL). N scored positions, V shared vocabulary."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from distillab.divergences.fused import Evaluated, Probabilities, evaluate
from distillab.divergences.kl import kl_terms

# The head is searched among this many of the most likely tokens first, then among `_TIMES` as many.
_FIRST, _TIMES = 64, 4


def adaptive_kl(*, student_logp: Tensor, teacher_logp: Tensor, head_mass: float) -> Tensor:
    """Return adaptive KL per position, in nats: forward KL where the head differs, reverse KL where the tail does.

        D_n = g_head/(g_head + g_tail) · KL(teacher ‖ student) + g_tail/(g_head + g_tail) · KL(student ‖ teacher)
        g = Σ |p − q| over the head, or over the tail; constants for the gradient

    The head is the smallest set of the teacher's most likely tokens that holds at least `head_mass`; tokens of
    exactly equal probability are in it together, so that the order of the vocabulary does not matter. The mass is
    compared to within 8 units of rounding.

    Args:
        student_logp: (N, V) natural-log probabilities, rows sum to one, any float dtype.
        teacher_logp: (N, V) the same vocabulary order, a constant; −inf means exactly no mass.
        head_mass: μ, 0 < μ < 1; the authors use 0.5.
    Returns:
        (N,) float32 nats (float64 for float64 inputs), between the two KLs; a KL of weight 0 counts for nothing.
    Raises:
        ShapeError: the shapes differ (map the vocabularies first).
        ValueError: μ is not strictly between 0 and 1, or teacher_logp requires a gradient.
    Source: Wu et al. 2024, Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language
        Models (arXiv:2404.02657): the head of its equation, as in DSKD's code. The authors' own code takes one token
        less if the head has more than one: the token that reaches μ is in its tail.

    Cost: finding the head needs a top-k; on a GPU the host synchronises with the device once per call.

    >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
    >>> round(adaptive_kl(student_logp=q, teacher_logp=p, head_mass=0.4).item(), 4)  # all is head: forward KL
    0.1438
    """
    return evaluate(partial(adaptive_formula, head_mass=head_mass), student_logp, teacher_logp)


def adaptive_formula(student: Probabilities, teacher: Probabilities, *, head_mass: float) -> Evaluated:
    """Both KLs' slopes, by the same weights."""
    if not 0.0 < head_mass < 1.0:
        raise ValueError(f"head_mass must lie strictly between 0 and 1, got {head_mass}")
    p, q = teacher.prob, student.prob
    forward, reverse = kl_terms(teacher, student)[0], kl_terms(student, teacher)
    gap = torch.sub(p, q).abs_()
    head = _head_gap(teacher.logp, gap, head_mass)
    everything = gap.sum(dim=-1)
    # equal distributions: both KLs and their gradients are zero, and any weight will do
    share = torch.where(everything > 0, head / everything, 0.5).clamp(max=1.0)  # rounding may give 1 + 1e-7
    value = _weighed(share, forward) + _weighed(1.0 - share, reverse[0])
    weight = share.unsqueeze(-1)
    return Evaluated(value, reverse[1].add_(q).mul_(1.0 - weight).sub_(p * weight))


def _weighed(weight: Tensor, value: Tensor) -> Tensor:
    return torch.where(weight > 0, weight * value, 0.0)


def _head_gap(teacher_logp: Tensor, gap: Tensor, head_mass: float) -> Tensor:
    """Return (N,) Σ gap over each row's head."""
    vocabulary = gap.shape[1]
    size = min(_FIRST, vocabulary)
    found, settled = _head_among(teacher_logp, gap, head_mass, size)
    while size < vocabulary and not bool(settled.all()):
        size = min(size * _TIMES, vocabulary)
        rows = (~settled).nonzero()[:, 0]
        found[rows], settled[rows] = _head_among(teacher_logp[rows], gap[rows], head_mass, size)
    return found


def _head_among(teacher_logp: Tensor, gap: Tensor, head_mass: float, size: int) -> tuple[Tensor, Tensor]:
    """Return (N,) Σ gap over the part of the head among the `size` most likely tokens, and whether that is all."""
    logp, ids = teacher_logp.topk(size, dim=-1)
    enough = head_mass * (1.0 - 8 * torch.finfo(gap.dtype).eps)
    reached = logp.exp().cumsum(dim=-1) >= enough
    # the least likely token that is needed; if the mass is not reached yet, the last one seen
    last = logp[:, -1:]
    border = torch.where(reached, logp, -torch.inf).amax(dim=-1, keepdim=True).maximum(last)
    # further tokens can be as likely as the border
    return torch.where(logp >= border, gap.gather(1, ids), 0.0).sum(dim=-1), (last < border)[:, 0]
