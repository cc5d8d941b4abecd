"""Compare with a teacher of which only the top-k log-probabilities are known.

Each function maps student and teacher to the same outcomes, so that any divergence can then be applied; there is no
second formula for truncated teachers.

Shape letters: N scored positions, V student vocabulary (of the shared ids), K kept entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillab.errors import ShapeError


def with_tail_cell(
    *, student_logp: Tensor, kept_ids: Tensor, kept_logp: Tensor, tail_logmass: Tensor
) -> tuple[Tensor, Tensor]:
    """Return student and teacher over K + 1 outcomes: the kept tokens, and all others as one.

    Merging outcomes never raises an f-divergence (the data-processing inequality), so forward and reverse KL, the
    skewed ones, Jensen-Shannon and total variation are lower bounds of their dense values, grow with K, and are equal
    to them at K = V. How the student's tail is distributed does not change the value.

    Args:
        student_logp: (N, V) natural-log probabilities, float32 or float64; or logits, which are these up to a constant
            a row: they are normalised here, which is faster than to do so before.
        kept_ids: (N, K) int64, no id twice in a row.
        kept_logp: (N, K) the teacher's true log-probabilities of those, not renormalised; a constant.
        tail_logmass: (N,) the teacher's log-probability of all other tokens together: `logmass_outside` if its
            whole distribution is known, `logmass_left` if only the kept tokens are.
    Returns:
        (N, K+1) student and (N, K+1) teacher log-probabilities; the tail is last, −inf if it is empty.
    Raises:
        ShapeError: the shapes do not fit together.
    Source: the "ghost token" of Anshumann et al. 2025 (arXiv:2503.16870), section on remedies of top-k.
    """
    _check(student_logp, kept_ids, kept_logp)
    if tail_logmass.shape != kept_logp.shape[:1]:
        raise ShapeError(
            "The tail is one number a position.",
            facts=[f"kept_logp {tuple(kept_logp.shape)}", f"tail_logmass {tuple(tail_logmass.shape)}"],
        )
    return _cells(student_logp, kept_ids), torch.cat([kept_logp, tail_logmass.unsqueeze(-1)], dim=-1)


def renormalised(*, student_logp: Tensor, kept_ids: Tensor, kept_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Return student and teacher over the kept tokens only, each renormalised to sum to one.

    Biased: only the *ratios* of the kept tokens count, and it is zero for a student that gives all of them together
    almost no probability. Any divergence can be applied to the K outcomes.

    Args and raises: as `with_tail_cell`.
    Returns:
        (N, K) student and (N, K) teacher log-probabilities, rows sum to one.
    """
    _check(student_logp, kept_ids, kept_logp)
    return student_logp.gather(1, kept_ids).log_softmax(dim=-1), kept_logp.log_softmax(dim=-1)


def drop_tail(*, student_logp: Tensor, kept_ids: Tensor, kept_logp: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true log-probabilities of the kept tokens; for forward KL only: Σ_K t (log t − log q).

    Biased: the minimum is where the student gives the kept tokens t/Σt and all others nothing, so the student becomes
    over-confident by 1/Σt. The truncated sum is not a divergence: it can be negative, down to Σt·log Σt, and other
    divergences lose their meaning on rows that do not sum to one.

    Args and raises: as `with_tail_cell`.
    Returns:
        (N, K) student and (N, K) teacher log-probabilities; rows sum to less than one.
    """
    _check(student_logp, kept_ids, kept_logp)
    return student_logp.gather(1, kept_ids), kept_logp


def logmass_outside(*, logp: Tensor, kept_ids: Tensor) -> Tensor:
    """Return the (N,) log-probability of all tokens that are not kept, from the full distribution.

    Summed over these tokens, so it is exact however small it is; −inf if none is left.

    Args:
        logp: (N, V) natural-log probabilities.
        kept_ids: (N, K) int64, no id twice in a row.
    """
    return logp.scatter(1, kept_ids, -torch.inf).logsumexp(dim=-1)


def logmass_left(kept_logp: Tensor) -> Tensor:
    """Return (N,) log(1 − Σ_K exp(kept)), the log-probability of all tokens that are not kept, from the kept ones.

    The tail is known only to the rounding of the kept ones. Within 16 units of rounding of their dtype (2·10⁻⁶ in
    float32) it counts as empty: −inf. Then a divergence that is infinite where the teacher has no mass (reverse KL)
    is infinite for every student that has a tail. A sum that exceeds one by more than that gives NaN.

    Args:
        kept_logp: (N, K) natural-log probabilities, float32 or float64.
    """
    left = 1.0 - kept_logp.double().exp().sum(dim=-1)
    rounding = 16 * torch.finfo(kept_logp.dtype).eps
    return torch.where(left.abs() <= rounding, 0.0, left).log().to(kept_logp.dtype)


class _Cells(torch.autograd.Function):
    """(N, V) logits -> (N, K+1) log-probabilities: of the kept ids, and of all others together.

    Normalised here, because then value and gradient need one pass of exponentials; a log-softmax before it, and its
    gradient, need one each, and the tail a third.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, kept_ids: Tensor) -> Tensor:
        top = logits_NV.amax(dim=-1, keepdim=True)
        prob_NV = logits_NV.softmax(dim=-1)
        top_logp = prob_NV.amax(dim=-1, keepdim=True).log()
        kept_prob, kept_logp = prob_NV.gather(1, kept_ids), logits_NV.gather(1, kept_ids) - top + top_logp
        rest = prob_NV.scatter_(1, kept_ids, 0.0)
        total = rest.sum(dim=-1, keepdim=True)
        tail, scale = total.log(), torch.ones_like(total)
        # In a smaller total the members below the smallest normal number, which have lost digits or vanished, could
        # together be more than a rounding of it: such a tail is measured by its own largest member.
        real = torch.finfo(rest.dtype)
        small = (total[:, 0] < rest.shape[1] * real.tiny / real.eps).nonzero()[:, 0]
        if len(small):
            rest[small], largest = _by_their_largest(logits_NV[small], kept_ids[small])
            total[small] = rest[small].sum(dim=-1, keepdim=True)
            largest_logp = largest - top[small] + top_logp[small]
            tail[small], scale[small] = total[small].log() + largest_logp, largest_logp.exp()
        ctx.save_for_backward(rest, total, scale, kept_prob, kept_ids)
        return torch.cat([kept_logp, tail], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        rest, total, scale, kept_prob, kept_ids = ctx.saved_tensors
        (gradient,) = outputs
        of_all = gradient.sum(dim=-1, keepdim=True)
        # of the tail: its members' shares in it; an empty one has no members
        share = torch.where(total > 0, gradient[:, -1:] / total, 0.0)
        towards = rest * (share - of_all * scale)
        return towards.scatter_(1, kept_ids, gradient[:, :-1] - kept_prob * of_all), None


def _by_their_largest(logits_NV: Tensor, kept_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, V) the tail's probabilities over the largest of them, 0 at the kept ids, and (N, 1) its logit."""
    rest = logits_NV.scatter(1, kept_ids, -torch.inf)
    largest = rest.amax(dim=-1, keepdim=True)
    # an empty tail: nothing to measure by
    largest = torch.where(largest == -torch.inf, 0.0, largest)
    return rest.sub_(largest).exp_(), largest


# torch does not type `apply`
_cells = cast(Callable[[Tensor, Tensor], Tensor], _Cells.apply)


def _check(student_logp: Tensor, kept_ids: Tensor, kept_logp: Tensor) -> None:
    fits = (
        student_logp.dim() == 2
        and kept_ids.shape == kept_logp.shape
        and kept_ids.dim() == 2
        and kept_ids.shape[0] == student_logp.shape[0]
        and kept_ids.shape[1] <= student_logp.shape[1]
    )
    if not fits:
        raise ShapeError(
            "Top-k teacher ids and log-probabilities are (N, K) for student log-probabilities (N, V), K ≤ V.",
            facts=[
                f"student_logp {tuple(student_logp.shape)}",
                f"kept_ids {tuple(kept_ids.shape)}",
                f"kept_logp {tuple(kept_logp.shape)}",
            ],
        )
