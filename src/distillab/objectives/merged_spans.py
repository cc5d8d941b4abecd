"""Divergence between distributions that are merged over spans by the chain rule (GOLD's merging, corrected).

Shape letters: N scored positions of the student, n those of a chunk, k of these that have a partner, M scored positions
of the teacher, S spans of the batch, U those that are shared, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from distillab.config.terms import MergedSpansConfig
from distillab.data.vocabularies import Vocabularies
from distillab.divergences.by_name import divergence
from distillab.errors import ConfigError, TeacherError
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_targets
from distillab.objectives.build import TermContext
from distillab.objectives.grouped import Grouping, grouped
from distillab.objectives.sorted_probabilities import sorted_distance
from distillab.objectives.span_likelihood import SMALLEST, log1mexp
from distillab.objectives.term import SpanTerm, StudentScores, TeacherScores
from distillab.objectives.vocabulary_projection import require_aligned
from distillab.teachers.aligned import actual_logp
from distillab.teachers.signals import Distribution, TeacherSignal


class MergedSpans(SpanTerm, config=MergedSpansConfig):
    """D(teacher, student) over the texts that are possible in place of a span.

    A span is s_1 … s_a for the student and t_1 … t_b for the teacher. Each distribution is merged by the chain rule, at
    the span's last token, where y may be any token:

        Q(y) = q(s_1) · … · q(s_{a−1} | …) · q(y | s_1 … s_{a−1}),   and P(y) likewise over t_1 … t_{b−1}

    Both sum to the probability of the earlier tokens. What is missing to one, the texts that differ before the last
    token, is an outcome as well: without it the divergence of two rows that do not sum to one can be negative, and it
    falls when the student takes probability from all tokens of the span. Outcomes are compared by their text:

        one token in both      nothing is merged. D over the C tokens that both vocabularies have, both distributions
                               normalised over these, times the probability that the teacher gives to them; and all
                               other tokens by the sorted distance Σ_i | sort(q)_i − sort(p)_i |
        more in one or both    D over two outcomes: the span itself, and every other text

        value = (1 − u) · D + u · sorted distance,   summed over spans

    In a longer span nothing else can be matched. The last tokens of student and teacher begin at different bytes there,
    or the span would have been cut between them, so that one token y is two different texts: after `Lon` the teacher's
    `don` ends "London", the student's, from the start, is the text "don". The others are not sorted there either,
    since they are mixed with texts that differ earlier in one tokenisation only.

    With one tokenisation every span is one token, there are no others, and this *is* `token_divergence`. If only one
    vocabulary has other tokens, there is nothing to compare them with, and nothing is sorted. Normalised over the C,
    the divergence does not push the student's other tokens down: it is the part of KL(p ‖ q) within the C. How much
    mass the others have is measured by the sorted distance alone.

    The gradient reaches all of the student's tokens of a span. All probabilities are taken at the temperature, those
    of earlier tokens too; T² rescales D and not the sorted distance.

    Args:
        settings: divergence, temperature, rescaling, and u = `unmatched_weight`; by default the share of the teacher's
            ids that the student does not have, as published.
        vocabularies: which tokens both have.
    Raises:
        ConfigError: u is set, and one vocabulary has no other tokens.
    Source: General On-Policy Logit Distillation (Patiño et al. 2025), as in TRL with "bayesian" merging: the full
        distribution at the span's last token times the probabilities of the earlier ones. (Their default, "observed",
        takes the distribution at the first token times the probabilities of the later ones and reads it one position
        late.) They compare rows that do not sum to one, by raw token strings, and also in longer spans, by the last
        token alone; normalisation, the outcome of all other texts, and matching by text are new here.
    """

    adds_position_values: bool = True

    def __init__(self, settings: MergedSpansConfig, *, vocabularies: Vocabularies) -> None:
        self.settings = settings
        self.student_width, self.teacher_width = vocabularies.student_width, vocabularies.teacher_width
        self.score_request = Distribution(self.teacher_width, settings.temperature)
        groups = vocabularies.by_common
        self._on_cpu = _SharedTokens(groups.student, groups.teacher)
        self._on: dict[torch.device, _SharedTokens] = {}
        self._divergence = divergence(settings.divergence, settings.parameters)
        others = [self._on_cpu.student_others.numel(), self._on_cpu.teacher_others.numel()]
        if settings.unmatched_weight is not None and not all(others):
            raise ConfigError(
                "unmatched_weight weighs tokens that only one vocabulary has, and one of them has none.",
                where=f"merged_spans: unmatched_weight {settings.unmatched_weight}",
                facts=[
                    f"of the student alone: {others[0]} of {self.student_width} ids",
                    f"of the teacher alone: {others[1]} of {self.teacher_width}",
                ],
                fix="leave unmatched_weight out",
            )
        share = others[1] / self.teacher_width if all(others) else 0.0
        self.unmatched_weight = share if settings.unmatched_weight is None else settings.unmatched_weight

    @classmethod
    def from_config(cls, settings: MergedSpansConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, vocabularies=context.require_vocabularies(settings.kind))

    def count(self, batch: TokenBatch) -> int:
        """Count the spans that student and teacher score."""
        return int(require_alignment(batch).shared_S.sum())

    def score(self, student: StudentScores) -> Tensor:
        """Return (n, 1) float32: log q of the token that follows."""
        return student.logp(self.student_width, self.settings.temperature).gather(1, student.targets_N[:, None])

    def scored_at(self, batch: TokenBatch) -> Tensor:
        """Return (N,) bool: the tokens of the longer spans."""
        return require_alignment(batch).student.inside(self._longer(batch))

    def position_values(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (n,) nats of the spans that are one token of student and of teacher; 0 elsewhere.

        Raises:
            TeacherError: the teacher's next tokens are not aligned with the student's positions.
        """
        aligned = require_aligned(signal, term=self.name)
        temperature, tokens = self.settings.temperature, self._shared_tokens(student.logits_NV.device)
        alone_k = tokens.same(student.targets_N[aligned.has], aligned.teacher_ids)
        student_nV = student.logp(self.student_width, temperature)
        teacher_nW = aligned.teacher.logp(self.teacher_width, temperature)
        teacher_nW = teacher_nW if bool(alone_k.all()) else teacher_nW[alone_k]
        alone_n = aligned.has.clone()
        alone_n[aligned.has] = alone_k
        every = bool(alone_n.all())
        value = self._one_token(student_nV if every else student_nV[alone_n], teacher_nW, tokens)
        return value if every else value.new_zeros(alone_n.shape).masked_scatter(alone_n, value)

    def reduce_spans(self, observed_NC: Tensor, batch: TokenBatch, signal: TeacherSignal) -> Tensor:
        """Return (N,) nats of the longer spans, at the first token of each.

        Raises:
            TeacherError: the teacher gives no scores.
        """
        if signal.scores is None:
            raise TeacherError(f"The term {self.name} needs the teacher's distribution, and there is none.")
        device, alignment = observed_NC.device, require_alignment(batch)
        longer_S = self._longer(batch)
        student_U = _span_sums(observed_NC[:, 0], alignment.student.spans_N.to(device), longer_S.to(device))
        places = alignment.teacher.inside(longer_S).nonzero()[:, 0]
        logp = actual_logp(
            signal.scores,
            places,
            scored_targets(batch["teacher"]),
            width=self.teacher_width,
            device=device,
            temperature=self.settings.temperature,
        )
        teacher_U = _span_sums(logp, alignment.teacher.spans_N[places].to(device), longer_S.to(device))
        value_U = self._distance(_span_or_not(student_U), _span_or_not(teacher_U)) * (1.0 - self.unmatched_weight)
        place_U = alignment.student.first_S[longer_S].to(device)
        return torch.zeros_like(observed_NC[:, 0]).index_add(0, place_U, value_U)

    def _longer(self, batch: TokenBatch) -> Tensor:
        """Return (S,) bool: scored spans that are not the same single token of student and of teacher."""
        alignment = require_alignment(batch)
        shared = alignment.shared_S
        student_U = scored_targets(batch)[alignment.student.first_S[shared]]
        teacher_U = scored_targets(batch["teacher"])[alignment.teacher.first_S[shared]]
        longer_S = shared.clone()
        # if more of the span followed a token that begins it in both, the span would have been cut there
        longer_S[shared] = ~self._shared_tokens(shared.device).same(student_U, teacher_U)
        return longer_S

    def _one_token(self, student_nV: Tensor, teacher_nW: Tensor, tokens: _SharedTokens) -> Tensor:
        """Return (n',) values from (n', V) and (n', W) log-probabilities."""
        student_logp, teacher_logp = grouped(student_nV, tokens.student), grouped(teacher_nW, tokens.teacher)
        if not tokens.student.complete:
            student_logp = student_logp.log_softmax(dim=-1)
        if tokens.teacher.complete:
            value = self._distance(student_logp, teacher_logp)
        else:
            mass = teacher_logp.logsumexp(dim=-1, keepdim=True)
            value = self._distance(student_logp, teacher_logp - mass) * mass[:, 0].exp()
        if self.unmatched_weight == 0.0:
            return value
        rest = sorted_distance(
            student_nV.index_select(1, tokens.student_others).exp(),
            teacher_nW.index_select(1, tokens.teacher_others).exp(),
        )
        return (1.0 - self.unmatched_weight) * value + self.unmatched_weight * rest

    def _distance(self, student_logp: Tensor, teacher_logp: Tensor) -> Tensor:
        value = self._divergence(student_logp=student_logp, teacher_logp=teacher_logp)
        return value * self.settings.temperature**2 if self.settings.rescale_by_temperature_squared else value

    def _shared_tokens(self, device: torch.device) -> _SharedTokens:
        if device not in self._on:
            on_cpu = self._on_cpu
            self._on[device] = _SharedTokens(on_cpu.student.of.to(device), on_cpu.teacher.of.to(device))
        return self._on[device]


class _SharedTokens:
    """The tokens that both vocabularies have, on a device: (V,) and (W,) the common token's number, else -1."""

    def __init__(self, student_of: Tensor, teacher_of: Tensor) -> None:
        self.student, self.teacher = Grouping(student_of), Grouping(teacher_of)
        self.student_others = (student_of < 0).nonzero()[:, 0]
        self.teacher_others = (teacher_of < 0).nonzero()[:, 0]

    def same(self, student_ids: Tensor, teacher_ids: Tensor) -> Tensor:
        """Return whether two ids are one token, as bool."""
        number = self.student.of[student_ids]
        return (number == self.teacher.of[teacher_ids]) & (number >= 0)


def _span_or_not(logp_U: Tensor) -> Tensor:
    """Return (U, 2) log-probabilities of a span and of every other text, clamped as in `span_likelihood`."""
    logp_U = logp_U.clamp(max=0.0) - SMALLEST
    return torch.stack([logp_U, log1mexp(logp_U)], dim=-1)


def _span_sums(logp: Tensor, spans: Tensor, wanted_S: Tensor) -> Tensor:
    """Return (U,) sums over the tokens of each wanted span, of log-probabilities at positions of any span."""
    number_S = wanted_S.cumsum(0) - 1
    inside = (spans >= 0) & wanted_S[spans.clamp(min=0)]
    return logp.new_zeros(int(wanted_S.sum())).index_add(0, number_S[spans[inside]], logp[inside])
