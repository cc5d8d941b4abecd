"""Distance between sorted next-token probabilities (ULD): the tokens themselves are not compared.

Shape letters: n student positions, k those with a partner, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillab.config.terms import SortedProbabilitiesConfig
from distillab.errors import TeacherError
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.objectives.build import TermContext
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.objectives.vocabulary_projection import require_aligned
from distillab.teachers.signals import Distribution


class SortedProbabilities(TokenTerm, config=SortedProbabilitiesConfig):
    """Σ_i | sort(q)_i − sort(p)_i | per position, the shorter vocabulary padded with zeros.

    The Wasserstein distance between two distributions if every token were as far from every other one: equal for
    distributions of the same shape, whatever their tokens are. It is 0 for a student that is as sure as the teacher of
    a different word, which is why it helps so little (docs/experiments.md).

    Args:
        settings: which positions are compared, and the temperature.
        student_width, teacher_width: ids of the tokenizers.
    Source: Universal Logit Distillation (Boizard et al. 2024, arXiv:2402.12030), eq. 4; positions as in their code,
        that is shifted: logits that predict the n-th answer token with logits that predict the n-th.
    """

    def __init__(self, settings: SortedProbabilitiesConfig, *, student_width: int, teacher_width: int) -> None:
        self.settings = settings
        self.student_width = student_width
        self.teacher_width = teacher_width
        self.score_request = Distribution(teacher_width, settings.temperature)
        self.ordinal = settings.positions == "ordinal"

    @classmethod
    def from_config(cls, settings: SortedProbabilitiesConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        both = context.require_vocabularies(settings.kind)
        return cls(settings, student_width=both.student_width, teacher_width=both.teacher_width)

    def count(self, batch: TokenBatch) -> int:
        """Count the positions that are compared."""
        alignment = require_alignment(batch)
        return int(((alignment.ordinal_N if self.ordinal else alignment.partner_N) >= 0).sum())

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (n,) between 0 and 2; 0 where there is no partner.

        Raises:
            TeacherError: the teacher's next tokens are not aligned with the student's positions.
        """
        aligned = require_aligned(signal, term=self.name)
        pair = aligned.by_order if self.ordinal else aligned
        if pair is None:
            raise TeacherError(
                f"The term {self.name} compares the n-th tokens of both answers, and the teacher's were not looked up.",
                fix="align(…, ordinal=True)",
            )
        temperature = self.settings.temperature
        student_kV = student.logp(self.student_width, temperature)[pair.has].exp()
        teacher_kW = pair.teacher.logp(self.teacher_width, temperature).exp()
        value = sorted_distance(student_kV, teacher_kW)
        spread = torch.zeros(pair.has.shape, dtype=value.dtype, device=value.device)
        return spread.masked_scatter(pair.has, value)


def sorted_distance(student_p: Tensor, teacher_p: Tensor) -> Tensor:
    """Return (k,) from (k, V) and (k, W) probabilities; differentiable, once, with respect to the student's."""
    return _sorted_distance(student_p, teacher_p)


class _SortedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_p: Tensor, teacher_p: Tensor) -> Tensor:
        student_kV, ids = _ascending(student_p)
        teacher_kW = _ascending_values(teacher_p)
        width = max(student_kV.shape[1], teacher_kW.shape[1])
        student_kV, teacher_kW = (torch.nn.functional.pad(p, (width - p.shape[1], 0)) for p in (student_kV, teacher_kW))
        difference = student_kV - teacher_kW
        ctx.save_for_backward(difference[:, width - ids.shape[1] :].sign(), ids)
        return difference.abs_().sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, None]:
        signs, ids = ctx.saved_tensors
        (gradient,) = outputs
        return torch.empty_like(signs).scatter_(1, ids, signs * gradient[:, None]), None


# torch does not type `apply`
_sorted_distance = cast(Callable[[Tensor, Tensor], Tensor], _SortedDistance.apply)


def _ascending(p_kV: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row's probabilities ascending: (k, V) probabilities and (k, V) their ids."""
    if not _sorts_by_numpy(p_kV):
        return p_kV.sort(dim=-1)
    # probabilities have the same order as their bits, so that both fit into one number
    keys = p_kV.contiguous().view(torch.int32).to(torch.int64) << 32
    keys |= torch.arange(p_kV.shape[1])
    keys.numpy().sort(axis=-1)
    return (keys >> 32).to(torch.int32).view(torch.float32), keys & 0xFFFFFFFF


def _ascending_values(p_kW: Tensor) -> Tensor:
    """Sort each row's probabilities ascending, (k, W)."""
    if not _sorts_by_numpy(p_kW):
        return p_kW.sort(dim=-1).values
    return torch.from_numpy(np.sort(p_kW.numpy(), axis=-1))


def _sorts_by_numpy(p: Tensor) -> bool:
    """Return whether numpy sorts it, which takes a third of torch's time on a CPU: docs/performance.md."""
    return p.device.type == "cpu" and p.dtype == torch.float32
