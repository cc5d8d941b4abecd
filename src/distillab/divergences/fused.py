"""Compute value and gradient of a divergence in the same pass over the vocabulary.

Every divergence here is a sum over the vocabulary, so its derivative with respect to a log-probability is a formula
of the same few numbers as its value. A formula reads the probabilities of both models, which are made from logits with
one exponential each, and log-ratios as differences of logits: no log-probability is made that is not read.

Shape letters: N scored positions, V shared vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillab.errors import ShapeError

# Ids among which a likely one is looked for, and the least probability that has all its digits, with a margin.
_LOOKED_AT, _LEAST = 64, 1e-30


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The distribution of one model at some positions; each form of it is made when it is first read.

    Attributes:
        logits: (N, V) float32 or float64, log-probabilities up to a number a row.
        normalised: that number is 0, and each row is taken as it is.
    """

    logits: Tensor
    normalised: bool = False

    @cached_property
    def prob(self) -> Tensor:
        """(N, V) probabilities; NaN in the whole row of logits that are no distribution."""
        return self.logits.exp() if self.normalised else self.logits.softmax(dim=-1)

    @cached_property
    def log_total(self) -> Tensor:
        """(N, 1) what the logits exceed the log-probabilities by."""
        if self.normalised:
            return self.zero_or_nan[:, None]
        # by one likely member of each row, and so without a pass over all of them
        logit, prob = self._at(self._likely)
        if not bool((prob > _LEAST).all()):  # some have lost their digits: by the largest
            logit, prob = (of.amax(dim=-1, keepdim=True) for of in (self.logits, self.prob))
        return logit - prob.log()

    @cached_property
    def logp(self) -> Tensor:
        """(N, V) log-probabilities."""
        return self.logits if self.normalised else self.logits - self.log_total

    def logp_at(self, ids_NK: Tensor) -> Tensor:
        """Return (N, K) log-probabilities of some ids."""
        return self.logits.gather(1, ids_NK) - self.log_total

    def log_total_less(self, other: Probabilities) -> Tensor:
        """Return (N, 1) the difference of both `log_total`, by the same member: exact where both are close."""
        (logit, prob), (its_logit, its_prob) = (side._at(self._likely) for side in (self, other))
        if self.normalised or other.normalised or not bool((torch.minimum(prob, its_prob) > _LEAST).all()):
            return self.log_total - other.log_total
        return (logit - its_logit) - (prob / its_prob).log()

    @cached_property
    def _likely(self) -> Tensor:
        """(N, 1) the most likely of the first ids."""
        return self.logits[:, :_LOOKED_AT].argmax(dim=-1, keepdim=True)

    def _at(self, ids_NK: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.gather(1, ids_NK), self.prob.gather(1, ids_NK)

    @cached_property
    def zero_or_nan(self) -> Tensor:
        """(N,) 0 for a row of numbers, NaN for one that has NaN or has no finite largest member."""
        largest = self.logits.amax(dim=-1) if self.normalised else self.prob[:, 0]
        return largest - largest


class Evaluated(NamedTuple):
    """Value (N,) of a divergence; ∂value/∂(student log-probability) is factor · slope + of_q · q, slope (N, V).

    From logits the slope may lack a multiple of q a row: it vanishes in the gradient with respect to the logits. The
    slope can be the teacher's probabilities themselves. `total` (N, 1) is Σ slope, where it is known.
    """

    value: Tensor
    slope: Tensor
    factor: float = 1.0
    of_q: float = 0.0
    total: Tensor | None = None

    def sums(self) -> Tensor:
        """Return (N, 1) Σ slope."""
        return self.slope.sum(dim=-1, keepdim=True) if self.total is None else self.total


# (student, teacher) in one float type; changes neither
Formula = Callable[[Probabilities, Probabilities], Evaluated]


def evaluate(formula: Formula, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
    """Evaluate a divergence by its formula, differentiable (once) with respect to the student.

    Args:
        formula: gets both in at least float32. NaN inputs are handled here.
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


def evaluated(formula: Formula, student: Probabilities, teacher: Probabilities) -> Evaluated:
    """Return value and slope; NaN for a row with NaN in either input, which sums can have lost."""
    found = formula(student, teacher)
    return found._replace(value=found.value + student.zero_or_nan + teacher.zero_or_nan)


def summed_(terms: Tensor) -> Tensor:
    """Return (N,) sums of (N, V) products of a probability; products of an outcome without mass become 0 in place.

    A finite sum has none of them; so a device is synchronised with once, but the terms are seldom written again.
    """
    total = terms.sum(dim=-1)
    return nothing_from_no_mass_(terms).sum(dim=-1) if bool(total.isnan().any()) else total


def nothing_from_no_mass_(terms: Tensor) -> Tensor:
    """Replace NaN by 0 in place; infinities stay.

    In a sum of p·log-ratio, NaN comes only from 0·∞, an outcome without mass, which contributes nothing; NaN of the
    inputs is restored by `evaluated`.
    """
    return terms.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class _Evaluation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, formula: Formula) -> Tensor:
        ours = Probabilities(student, normalised=True)
        value, slope, factor, of_q, _ = evaluated(formula, ours, Probabilities(teacher, normalised=True))
        if ctx.needs_input_grad[0]:
            slope = slope.mul_(factor) if factor != 1.0 else slope
            ctx.save_for_backward(slope.add_(ours.prob, alpha=of_q) if of_q else slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        (gradient,) = outputs
        # not in place: backward can run through the graph again
        return slope * gradient.unsqueeze(-1), None, None


# torch does not type `apply`
_evaluation = cast(Callable[[Tensor, Tensor, Formula], Tensor], _Evaluation.apply)
