"""Divergence of two next-token distributions, one carried over to the other's tokens as the rows show them.

Shape letters: n student positions, k those with a partner, V student vocabulary, W teacher vocabulary.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from distillab.alignment.projection import VocabularyProjection
from distillab.config.terms import MeasuredTransportConfig, TopKTransportConfig
from distillab.data.vocabularies import Vocabularies
from distillab.divergences.by_name import divergence, formula
from distillab.divergences.fused import Probabilities, evaluate
from distillab.divergences.truncated import with_tail_cell
from distillab.errors import ConfigError, TeacherError
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.objectives.build import TermContext
from distillab.objectives.carried import Carrier
from distillab.objectives.outcomes import Outcomes
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.objectives.vocabulary_projection import require_aligned
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import Distribution, Draws, ScoreRequest, Top, probabilities


class _Transport(TokenTerm):
    """Base of the terms that carry one model over to the other's tokens; they differ in what they read of the teacher.

    `outcomes` carries the student, and the other forms the teacher.
    """

    def __init__(self, settings: MeasuredTransportConfig | TopKTransportConfig, *, vocabularies: Vocabularies) -> None:
        self.settings = settings
        self.student_width, self.teacher_width = vocabularies.student_width, vocabularies.teacher_width
        self._formula = formula(settings.divergence, settings.parameters)
        # without counts it can be asked what it reads, and nothing else
        self._kernel = _kernel(vocabularies, settings)
        self._on: dict[torch.device, Carrier] = {}
        self._outcomes_on: dict[torch.device, Outcomes] = {}
        if self._kernel is not None and settings.form != "outcomes":
            self._require_finite(self._carrier(torch.device("cpu")))

    @classmethod
    def from_config(cls, settings: MeasuredTransportConfig | TopKTransportConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, vocabularies=context.require_vocabularies(settings.kind))

    def count(self, batch: TokenBatch) -> int:
        """Count the scored positions; without `rest`, those that have a partner."""
        if self.settings.rest == "text":
            return super().count(batch)
        return int((require_alignment(batch).partner_N >= 0).sum())

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (n,) nats (times T² if the settings require it); without `rest` 0 where there is no partner.

        Raises:
            TeacherError: the teacher's next tokens are not aligned with the student's positions, or nothing was
                counted.
        """
        aligned = require_aligned(signal, term=self.name)
        factor = self.settings.temperature**2 if self.settings.rescale_by_temperature_squared else 1.0
        if self.settings.form == "outcomes" and not self._carrier(aligned.has.device).identity:
            return self._by_outcomes(student, aligned, factor)
        value, mass = self._carried(student, aligned)
        value = value * factor
        if mass is not None:
            value = value * mass
        if self.settings.rest == "none":
            return torch.where(aligned.has, value, 0.0)
        missed = -student.logp_at(student.targets_N[:, None], self.student_width, 1.0)[:, 0]
        if mass is not None:
            value = value + (1.0 - mass) * missed
        return value if bool(aligned.has.all()) else torch.where(aligned.has, value, missed)

    def _by_outcomes(self, student: StudentScores, aligned: AlignedTokens, factor: float) -> Tensor:
        """Return (n,) m · D(p, Q), and with `rest` also −log q(u) + m · log Q(v), m the mass of p that Q has."""
        has, temperature = aligned.has, self.settings.temperature
        outcomes = self._outcomes(has.device)
        carried = student.carried(outcomes.links, temperature)
        value, mass = self._compared(carried, aligned, outcomes)
        value = factor * mass * value
        if self.settings.rest == "none":
            return torch.where(has, value, 0.0)
        seen = carried if temperature == 1.0 else student.carried(outcomes.links, 1.0)
        linked = outcomes.linked(student.targets_N[has], aligned.teacher_ids)
        follows_n1 = _spread(outcomes.place[aligned.teacher_ids].clamp(min=0), has, 0)[:, None]
        follows = seen.logp_at(follows_n1, outcomes.width, 1.0)[:, 0]
        value = value + mass * torch.where(_spread(linked, has, False), follows, 0.0)
        # outcomes have the total of the tokens: these need no sums of their own
        missed = seen.log_total(seen.logits_NV.shape[1], 1.0) - student.logits_at(student.targets_N[:, None])[:, 0]
        return torch.where(has, value, 0.0) + missed

    def _compared(self, student: StudentScores, aligned: AlignedTokens, outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        """Return (n,) the divergence of the teacher from Q, and (n,) the teacher's mass that has an outcome.

        Without a partner any finite numbers.

        Args:
            student: over the outcomes.
        """
        raise NotImplementedError

    def _carried(self, student: StudentScores, aligned: AlignedTokens) -> tuple[Tensor, Tensor | None]:
        """Return (n,) the divergence and (n,) the mass that is carried, None for 1; without a partner any numbers."""
        raise NotImplementedError

    def _carrier(self, device: torch.device) -> Carrier:
        if self._kernel is None:
            raise TeacherError(
                f"The term {self.name} needs counts of the rows in both tokenisations, and there are none.",
                fix="Vocabularies with `counts` (data.transport.count_transport), or form: longest_prefix",
            )
        if device not in self._on:
            self._on[device] = Carrier(self._kernel, device)
        return self._on[device]

    def _outcomes(self, device: torch.device) -> Outcomes:
        assert self._kernel is not None
        if device not in self._outcomes_on:
            self._outcomes_on[device] = Outcomes(self._kernel, device)
        return self._outcomes_on[device]

    def _require_finite(self, carrier: Carrier) -> None:
        missing = int((~carrier.reached).sum())
        settings = self.settings
        outcomes = [torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.5], [1.0, 0.0])]
        value = divergence(settings.divergence, settings.parameters)(student_logp=outcomes[0], teacher_logp=outcomes[1])
        if missing and not bool(value.isfinite().all()):
            raise ConfigError(
                f"The divergence {settings.divergence} is infinite where the teacher gives a token no probability.",
                where=f"{self.name}: divergence",
                facts=[f"tokens of the student that no token of the teacher is carried to: {missing:,}"],
                fix="form: outcomes, or forward_kl, jensen_shannon or skewed_reverse_kl",
            )


class MeasuredTransport(_Transport, config=MeasuredTransportConfig):
    """Divergence of two next-token distributions where both tokenisations begin a token; one model is carried over.

    N(v, u) is how often the student's tokenizer begins with u where the teacher's begins with v, counted on the rows of
    the run. The form `outcomes` carries the student's distribution q to the teacher's tokens:

        Q(v) = Σ_u q(u) L(v | u),      L(v | u) = (N(v, u) + λ · 1[v = h(u)]) / (N(·, u) + λ)
        value = D(p, Q), with `rest: text` + log Q(v) − log q(u) of the tokens v and u that follow in the text

    h(u) is the first token of the teacher's own encoding of u. That is cross-entropy in which the teacher decides which
    of its tokens follows, and the text which token of the student in its place: with a teacher that is sure of the text
    it is cross-entropy. The form `measured` carries the teacher's distribution p to the student's tokens:

        value = D(p̃, q),  p̃(u) = Σ_v p(v) K(u | v),      K(u | v) = (N(v, u) + λ · 1[u = g(v)]) / (N(v, ·) + λ)

    g(v) is the first token of the student's own encoding of v. Special tokens go by their role. A token v of the
    teacher that the student is not carried to, or that is not carried itself, takes no part: p is normalised over the
    others, and the value multiplied by their mass.

    With `rest: text` the text decides the rest: −log q(u) of the token u that follows, where no token of the teacher
    begins, and for the mass without a part. With equal tokenizers L and K are the identity, and this is token
    divergence.

    With `samples` p is the share of each token among draws; the value is then forward KL without bias in its gradient,
    but for a constant in the form `measured`: the entropy that is subtracted is the teacher's own.

    Args:
        settings: form, λ (`prior`), divergence, temperature, rescaling, samples.
        vocabularies: of both tokenizers; with counts for the measured form.
    Raises:
        ConfigError: the divergence is infinite where p̃ is 0, and there are tokens that nothing is carried to.
        TeacherError: outcomes, and the map lacks the teacher's spelling of the student's tokens.
    """

    def __init__(self, settings: MeasuredTransportConfig, *, vocabularies: Vocabularies) -> None:
        super().__init__(settings, vocabularies=vocabularies)
        self.samples = settings.samples
        width, temperature = self.teacher_width, settings.temperature
        self.score_request: ScoreRequest = (
            Distribution(width, temperature) if self.samples is None else Draws(self.samples, width, temperature)
        )

    def _carried(self, student: StudentScores, aligned: AlignedTokens) -> tuple[Tensor, Tensor | None]:
        carrier = self._carrier(aligned.has.device)
        if self.samples is not None:
            return self._of_draws(student, aligned, carrier, self.samples)
        temperature = self.settings.temperature
        teacher = probabilities(aligned.teacher, self.teacher_width, temperature)
        mass = None
        if not carrier.identity:
            logp_kV, mass = carrier.logp(teacher)
            teacher = Probabilities(logp_kV, normalised=True)
        if not bool(aligned.has.all()):
            # the others are computed with any distribution, and left out afterwards
            teacher = Probabilities(_spread(teacher.logits, aligned.has, 0.0))
            mass = None if mass is None else _spread(mass, aligned.has, 1.0)
        return student.distance(self._formula, teacher, temperature), mass

    def _compared(self, student: StudentScores, aligned: AlignedTokens, outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        temperature = self.settings.temperature
        if self.samples is None:
            teacher, mass = outcomes.of_teacher(probabilities(aligned.teacher, self.teacher_width, temperature))
            if teacher.logits.shape[0] < aligned.has.shape[0]:
                # the others are computed with any distribution, and left out afterwards: to take rows out costs more
                teacher = Probabilities(_spread(teacher.logits, aligned.has, 0.0))
            return student.distance(self._formula, teacher, 1.0), _spread(mass, aligned.has, 1.0)
        drawn = aligned.teacher.drawn(self.samples, self.teacher_width, temperature)
        places = _spread(outcomes.place[drawn.ids], aligned.has, 0)
        inside = places >= 0
        logp = student.logp_at(places.clamp(min=0), outcomes.width, 1.0).masked_fill(~inside, 0.0)
        value = -logp.sum(dim=-1) / inside.sum(dim=-1).clamp(min=1)
        return value - _spread(drawn.entropy_estimate, aligned.has, 0.0), inside.float().mean(dim=-1)

    def _of_draws(
        self, student: StudentScores, aligned: AlignedTokens, carrier: Carrier, samples: int
    ) -> tuple[Tensor, Tensor | None]:
        drawn = aligned.teacher.drawn(samples, self.teacher_width, self.settings.temperature)
        shares = torch.full(drawn.ids.shape, 1.0 / samples, device=drawn.ids.device)
        carried = carrier.prob(_dense(drawn.ids, shares, self.teacher_width))
        logp = student.logp(self.student_width, self.settings.temperature)[aligned.has]
        mass = carried.sum(dim=-1)
        # the mass is in the value
        value = (-(carried * logp).sum(dim=-1) - mass * drawn.entropy_estimate) / mass.clamp(min=1e-30)
        return _spread(value, aligned.has, 0.0), None if carrier.complete else _spread(mass, aligned.has, 1.0)


class TopKTransport(_Transport, config=TopKTransportConfig):
    """The same with a teacher of which only the k most likely tokens are known.

    In the form `outcomes` all its other tokens are one outcome, and Q has the same. In the others these k are carried
    over. All other tokens of the teacher are one outcome, and all tokens of the student that nothing is carried to: D
    is between distributions over the tokens that are reached, and that one. If all are reached, the teacher's others
    are left out.

    Args:
        settings: k, and as for `MeasuredTransport`.
        vocabularies: as there.
    Raises:
        ConfigError: k is more than the teacher's tokens.
    """

    def __init__(self, settings: TopKTransportConfig, *, vocabularies: Vocabularies) -> None:
        super().__init__(settings, vocabularies=vocabularies)
        if settings.k > self.teacher_width:
            raise ConfigError(
                "k is larger than the number of the teacher's tokens.",
                where=f"{self.name}: k",
                facts=[f"k {settings.k}", f"tokens {self.teacher_width}"],
                fix="a smaller k, or measured_transport, which reads all of them",
            )
        self._k = settings.k
        self.score_request = Top(settings.k, self.teacher_width, settings.temperature)

    def _compared(self, student: StudentScores, aligned: AlignedTokens, outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        top = aligned.teacher.top(self._k, self.teacher_width, self.settings.temperature)
        places, logits = outcomes.place[top.ids], student.logits_NV[:, : outcomes.width]
        logits = logits if places.shape[0] == logits.shape[0] else logits[aligned.has]
        inside = places >= 0
        if not bool(inside.all()):  # to cells without mass, one for each of the k
            cells = torch.arange(logits.shape[1], logits.shape[1] + self._k, device=logits.device)
            places, logits = torch.where(inside, places, cells), pad(logits, (0, self._k), value=-torch.inf)
        ours, theirs = with_tail_cell(
            student_logp=logits,
            kept_ids=places,
            kept_logp=top.logp.masked_fill(~inside, -torch.inf),
            tail_logmass=top.tail_logmass,
        )
        mass = theirs.logsumexp(dim=-1, keepdim=True)
        value = evaluate(self._formula, ours, theirs - mass)
        return _spread(value, aligned.has, 0.0), _spread(mass[:, 0].exp(), aligned.has, 1.0)

    def _carried(self, student: StudentScores, aligned: AlignedTokens) -> tuple[Tensor, Tensor | None]:
        carrier, temperature = self._carrier(aligned.has.device), self.settings.temperature
        top = aligned.teacher.top(self._k, self.teacher_width, temperature)
        kept = carrier.prob(_dense(top.ids, top.logp.exp(), self.teacher_width))
        inside = kept > 0
        tail = top.tail_logmass.exp().masked_fill(inside.all(dim=-1), 0.0)[:, None]
        mass = (kept.sum(dim=-1, keepdim=True) + tail).clamp(min=1e-30)
        logp = student.logp(self.student_width, temperature)[aligned.has]
        others = logp.masked_fill(inside, -torch.inf).logsumexp(dim=-1, keepdim=True)
        ours = torch.cat([logp.masked_fill(~inside, -torch.inf), others], dim=-1)
        value = evaluate(self._formula, ours, (torch.cat([kept, tail], dim=-1) / mass).log())
        carried = None if carrier.complete else _spread(mass[:, 0], aligned.has, 1.0)
        return _spread(value, aligned.has, 0.0), carried


def _kernel(
    vocabularies: Vocabularies, settings: MeasuredTransportConfig | TopKTransportConfig
) -> VocabularyProjection | None:
    """Return the map that the form needs, of the student's tokens or of the teacher's; None: nothing was counted."""
    if settings.form == "longest_prefix":
        return vocabularies.prefixes
    return (vocabularies.outcomes if settings.form == "outcomes" else vocabularies.kernel)(settings.prior)


def _dense(ids_kK: Tensor, shares_kK: Tensor, width: int) -> Tensor:
    """Return (k, width) the shares at their ids, added up."""
    return shares_kK.new_zeros(ids_kK.shape[0], width).scatter_add_(1, ids_kK, shares_kK)


def _spread(of_k: Tensor, has: Tensor, otherwise: float) -> Tensor:
    """Return (n, …) the numbers at their positions, and a constant at the others."""
    if of_k.shape[0] == has.shape[0]:
        return of_k
    found = of_k.new_full((has.shape[0], *of_k.shape[1:]), otherwise)
    return found.index_copy_(0, has.nonzero()[:, 0], of_k)
