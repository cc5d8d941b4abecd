"""Compute value and gradient of a divergence in the same pass over the vocabulary.

Every divergence here is a sum over the vocabulary, so its derivative with respect to a log-probability is a formula
of the same few numbers as its value. Written out, both take two or three passes over a (N, V) chunk; autograd, which
keeps every intermediate result, takes three to five times as long.

Shape letters: N scored positions, V shared vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillab.errors import ShapeError

# (student_logp, teacher_logp) in one float type, at least float32 -> the values (N,) and ∂value/∂student_logp (N, V)
Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def evaluate(formula: Formula, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Evaluate a divergence by its formula, differentiable (once) with respect to the student.

    Args:
        formula: gets both tensors in at least float32 and must not change them. NaN inputs are handled here.
        student_logp: (N, V) natural-log probabilities, any float dtype.
        teacher_logp: (N, V) a constant.
    Returns:
        (N,) float32 (float64 if either input is); NaN for a row with NaN in either input.
    Raises:
        ShapeError: the shapes differ, or are not (N, V).
        ValueError: teacher_logp requires a gradient.
    """
    if student_logp.shape != teacher_logp.shape or student_logp.dim() != 2:
        raise ShapeError(
            "A divergence compares two (N, V) tensors over one vocabulary.",
            facts=[f"student_logp {tuple(student_logp.shape)}", f"teacher_logp {tuple(teacher_logp.shape)}"],
            fix="flatten the scored positions, and map or cut the vocabularies to the shared tokens first",
        )
    if torch.is_grad_enabled() and teacher_logp.requires_grad:
        raise ValueError("a divergence is differentiated with respect to the student alone: detach teacher_logp")
    double = torch.float64 in (student_logp.dtype, teacher_logp.dtype)
    dtype = torch.float64 if double else torch.float32
    return _evaluation(student_logp.to(dtype), teacher_logp.to(dtype), formula)


def nothing_from_no_mass_(terms: Tensor) -> Tensor:
    """Replace NaN by 0 in place; infinities stay.

    In a sum of p·log-ratio, NaN comes only from 0·∞, an outcome without mass, which contributes nothing. One pass
    without a mask, a branch or a device synchronisation; NaN of the inputs is restored by `evaluate`.
    """
    return terms.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def zero_or_nan(logp: Tensor) -> Tensor:
    """Return (N,) from (N, V) log-probabilities: 0 for a row of numbers (its largest is finite), NaN if it has NaN."""
    largest = logp.amax(dim=-1)
    return largest - largest


class _Evaluation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, formula: Formula) -> Tensor:
        value, slope = formula(student, teacher)
        ctx.save_for_backward(slope)
        return value + zero_or_nan(student) + zero_or_nan(teacher)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        (gradient,) = outputs
        # not in place: backward can run through the graph again
        return slope * gradient.unsqueeze(-1), None, None


# torch does not type `apply`
_evaluation = cast(Callable[[Tensor, Tensor, Formula], Tensor], _Evaluation.apply)
