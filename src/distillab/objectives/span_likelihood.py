"""Approximate likelihood matching (ALM): the likelihood of the spans that both tokenisations share.

Shape letters: N scored positions of the student, M of the teacher, S shared spans, V a vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from distillab.config.terms import SpanLikelihoodConfig
from distillab.errors import ConfigError, TeacherError
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.chunking import chunks, sub_chunks
from distillab.models.scoring import scored_targets
from distillab.objectives.build import TermContext
from distillab.objectives.term import SpanTerm, StudentScores
from distillab.teachers.signals import Distribution, TeacherSignal

# How far below certainty the log-likelihood of a span is kept.
SMALLEST = 1e-6


class SpanLikelihood(SpanTerm, config=SpanLikelihoodConfig):
    """Binary cross-entropy between the likelihoods that both models give to a span, less its smallest value.

        P_c = Π p(token | before) over the span's tokens,  Q_c = Π q(token | before)
        value_c = KL( Bernoulli(P_c^(1/τ)) ‖ Bernoulli(Q_c^(1/τ)) )

    Two models with different tokens both give the likelihood of a span of text. The value is 0 where both are equal,
    at every τ; the gradient reaches the student's likelihood alone. With τ = 100, as
    published, all likelihoods come near 1 and the value is nearly a squared difference of log-likelihoods.

    debias: a model with short tokens gives "Lon" probability also for texts that continue with "don", one with the
    token `London` does not. So both likelihoods are multiplied by the probability that the next token begins with a
    byte that begins a word (space, punctuation, line end), or ends the text: then both are of the same outcome. If the
    next span is not scored for one of the models (the answer ends, or a token of one tokenisation alone follows), the
    span is compared without that factor.

    Args:
        settings: temperature τ and debiasing.
        student_starts, teacher_starts: (V,) bool, for each vocabulary: whether the token begins a word.
    Raises:
        ConfigError: debias, and a vocabulary in which no token begins a word.
    Source: Minixhofer et al. 2025, Approximate Likelihood Matching (arXiv:2503.20083), eq. 6-9, "append_space". We
        subtract the teacher's entropy, so that equal models have the value 0, and do not merge spans
        ("merge_by_space_prob").
    """

    def __init__(self, settings: SpanLikelihoodConfig, *, student_starts: Tensor, teacher_starts: Tensor) -> None:
        for side, starts in (("student", student_starts), ("teacher", teacher_starts)):
            if settings.debias and not bool(starts.any()):
                raise ConfigError(
                    "No token begins a word, so that the probability of a word's end would always be 0.",
                    where=f"span_likelihood: the {side}'s vocabulary",
                    fix="debias: false",
                )
        self.settings = settings
        self.score_request = Distribution(teacher_starts.shape[0])
        self._widths = (student_starts.shape[0], teacher_starts.shape[0])
        self._starts_on_cpu = tuple(starts.nonzero()[:, 0] for starts in (student_starts, teacher_starts))
        self._starts_on: dict[torch.device, tuple[Tensor, ...]] = {}

    @classmethod
    def from_config(cls, settings: SpanLikelihoodConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        both = context.require_vocabularies(settings.kind)
        return cls(settings, student_starts=both.student_starts, teacher_starts=both.teacher_starts)

    def count(self, batch: TokenBatch) -> int:
        """Count the spans that student and teacher score."""
        return int(require_alignment(batch).shared_S.sum())

    def score(self, student: StudentScores) -> Tensor:
        """Return (n, 2) float32: log q of the next token; with debias, log of the mass of tokens that begin a word."""
        starts = self._starts(student.logits_NV.device)[0]
        return self._numbers(student.logp(self._widths[0], 1.0), student.targets_N, starts)

    def reduce_spans(self, observed_NC: Tensor, batch: TokenBatch, signal: TeacherSignal) -> Tensor:
        """Return (N,) nats; a span's value is at its first token.

        Raises:
            TeacherError: the teacher gives no scores.
        """
        device = observed_NC.device
        alignment = require_alignment(batch)
        sides, shared = (alignment.student, alignment.teacher), alignment.shared_S
        debiased = shared & (sides[0].next_S >= 0) & (sides[1].next_S >= 0) & self.settings.debias
        numbers = (observed_NC, self._teacher_numbers(signal, batch["teacher"], device))
        student_S, teacher_S = (
            _span_logp(numbers_N2, side.spans_N.to(device), side.next_S.to(device), debiased.to(device))[shared]
            for numbers_N2, side in zip(numbers, sides, strict=True)
        )
        tau = self.settings.temperature
        nats_S = bernoulli_kl(teacher_logp=teacher_S / tau, student_logp=student_S / tau)
        return torch.zeros_like(observed_NC[:, 0]).index_add(0, sides[0].first_S[shared].to(device), nats_S)

    def _teacher_numbers(self, signal: TeacherSignal, batch: TokenBatch, device: torch.device) -> Tensor:
        if signal.scores is None:
            raise TeacherError(f"The term {self.name} needs the teacher's distribution, and there is none.")
        targets_M = scored_targets(batch).to(device)
        starts = self._starts(device)[1]
        numbers_M2 = torch.zeros(targets_M.shape[0], 2, device=device)
        for here in chunks(targets_M.shape[0], self._widths[1], device):
            scores = signal.scores.chunk(here, device)
            for part in sub_chunks(scores.positions, self._widths[1], device):
                logp = scores.rows(part).logp(self._widths[1], 1.0)
                numbers_M2[here][part] = self._numbers(logp, targets_M[here][part], starts)
        return numbers_M2

    def _numbers(self, logp_nV: Tensor, targets_n: Tensor, starts: Tensor) -> Tensor:
        actual = logp_nV.gather(1, targets_n[:, None])
        if not self.settings.debias:
            return torch.cat([actual, torch.zeros_like(actual)], dim=1)
        return torch.cat([actual, logp_nV.index_select(1, starts).logsumexp(dim=-1, keepdim=True)], dim=1)

    def _starts(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the ids that begin a word, the student's and the teacher's."""
        if device not in self._starts_on:
            self._starts_on[device] = tuple(ids.to(device) for ids in self._starts_on_cpu)
        return self._starts_on[device]


def _span_logp(numbers_N2: Tensor, spans_N: Tensor, after_S: Tensor, debiased_S: Tensor) -> Tensor:
    """Return (S,) log-likelihoods of one model; those of spans that are not shared have no meaning."""
    inside_N = spans_N >= 0
    total_S = numbers_N2.new_zeros(debiased_S.shape).index_add(0, spans_N[inside_N], numbers_N2[inside_N, 0])
    if not bool(debiased_S.any()):
        return total_S
    ends_S = numbers_N2[:, 1][after_S[debiased_S]]
    return total_S.index_add(0, debiased_S.nonzero()[:, 0], ends_S)


def bernoulli_kl(*, teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Return the KL of two Bernoulli distributions from the logarithms of their probabilities. Nats, ≥ 0.

        p (e^δ − 1 − δ)  +  (1 − p) (−log(1 − u) − u)        δ = log q − log p,  u = (q − p)/(1 − p)

    with p of the teacher and q of the student. It is the usual sum, ordered so that neither part is negative and
    nothing cancels between them; near 0 each part is a series. So the relative error stays that of δ.

    Both are kept 10⁻⁶ below 0: an outcome of probability 0 has no logarithm.
    """
    teacher, student = (logp.clamp(max=0.0) for logp in (teacher_logp, student_logp))
    delta = student - teacher
    teacher, student = teacher - SMALLEST, student - SMALLEST
    p, near = teacher.exp(), _NEAR[delta.dtype]
    # the branch that `where` does not take must stay finite, or its gradient would be 0 · ∞
    small = delta.clamp(-near, near)
    is_small = delta.abs() < near
    rise = torch.where(is_small, p * small.expm1(), student.exp() - p)
    heads = torch.where(is_small, p * _series(small, _EXPONENTIAL), rise - p * delta)
    other = -teacher.expm1()
    u = rise / other
    tiny, moderate = u.clamp(-near, near), u.clamp(max=0.5)
    far = torch.where(u < 0.5, -torch.log1p(-moderate), log1mexp(teacher) - log1mexp(student)) - u
    return heads + other * torch.where(u.abs() < near, _series(tiny, _LOGARITHM), far)


# Below this the series of eight terms are exact to rounding; above it the plain form is.
_NEAR = {torch.float32: 0.125, torch.float64: 0.01}
_EXPONENTIAL = [1 / math.factorial(k) for k in range(2, 10)]  # of e^x − 1 − x, from x²
_LOGARITHM = [1 / k for k in range(2, 10)]  # of −log(1 − x) − x, from x²


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return Σ coefficients[i] · x^(i+2)."""
    total = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total * x.square()


def log1mexp(logp: Tensor) -> Tensor:
    """Compute log(1 − e^x) for x < 0, accurate at both ends (Mächler 2012)."""
    near = torch.log(-torch.expm1(logp.clamp(min=-0.7)))
    far = torch.log1p(-torch.exp(logp.clamp(max=-0.69)))
    return torch.where(logp > -0.693147, near, far)
