"""Divergence between next-token distributions of two vocabularies, at positions where both begin a token.

Shape letters: n student positions, k those with a partner, V student vocabulary, W teacher vocabulary, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from distillab.config.terms import VocabularyProjectionConfig
from distillab.data.token_groups import SpelledTokens, TokenGroups
from distillab.data.vocabularies import Vocabularies
from distillab.divergences.by_name import divergence
from distillab.errors import TeacherError
from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.objectives.build import TermContext
from distillab.objectives.grouped import Grouping, grouped
from distillab.objectives.term import StudentScores, TeacherScores, TokenTerm
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import Distribution

# The smallest difference from 1 in float32: so much of a token's mass always stays where it was.
_ROUNDING = 2.0**-24


class VocabularyProjection(TokenTerm, config=VocabularyProjectionConfig):
    """D(teacher, student) over groups of tokens, at the positions from which both predict the same text.

    Only there are the two distributions comparable: both models have read the text up to the same byte.
    Tokens are put into groups g that mean the same in both vocabularies, so that P(g) = Σ p(w), Q(g) = Σ q(v) are two
    distributions over the same outcomes, and the value is D(P, Q).

        projected   every token is grouped with the one by which the other tokenizer begins its text: the student's `1`,
                    `12`, `13` with a teacher's `1`; the teacher's `London` with a student's `Lon`
        common      each token that both vocabularies have by itself; all others are not compared
        strict      the same, and only where one and the same token follows for both; elsewhere the text is the target

    If tokens are in no group, both distributions are normalised over the others, and the value is multiplied by the
    mass
    that the teacher gives to these: that is the part of KL(p ‖ q) within them.

    The chain rule gives more for the text that really follows. Let w be the teacher's next token, s the span that it
    begins, and e = p(w) · Π p(further tokens of s | before), the teacher's probability of that text. If the
    student's next token v is the whole of s, and the teacher has to spell it (`12` as `1` `2`), then v is a separate
    outcome, apart from its group: P(v) = e + Σ p(w') over the w' that a student would begin with v. Longer student
    tokens that the teacher spells with the same beginning (`123`) belong to that outcome too, for the student.
    If w and v are not in one group (a text that is not cut as it would be by itself; the common form's `1` and `12`), e
    is taken from w's and given to v's, where v is in one.

    With `rest: text` the data decide what the teacher's groups leave open. Let g be the outcome that the student's next
    token v belongs to; to the divergence is added

        −log q(v | g)   where the teacher predicts from the same place
        −log q(v)       everywhere else, and where v is in no group

    at temperature 1 (and −log Q(all groups) where groups do not hold all ids). By the chain rule log q(v) = log Q(g) +
    log q(v | g): it is cross-entropy with the choice of g taken from the teacher instead of from the text. So the term
    needs no cross-entropy beside it. With a teacher that is sure of the text it *is* cross-entropy; with one
    tokenisation groups are tokens, and it is token divergence.

    No token of the student is suppressed because the teacher does not have it: in the projected form a student that
    gives, in its own tokens, exactly the teacher's distribution has the value 0; the common form does not touch such
    tokens at all. (But it counts all of the teacher's `1` as the student's `1`, although part of it is `13` for the
    student.)

    Args:
        settings: form, divergence, temperature and rescaling. The chain rule is applied at temperature 1 to the further
            tokens of a span.
        vocabularies: the map between both.
    Raises:
        TeacherError: projected, and the map lacks the teacher's spelling of the student's tokens.
    Source: X-Token (arXiv:2605.21699): KL(p ‖ Wᵀ q) with the student carried to the teacher's tokens by first pieces,
        and the chain rule within a span. Here pieces are followed in both directions, later pieces have no weight
        (they are not next tokens), W is not learned, and the chain rule makes a separate outcome. The common form
        is that of GOLD (Patiño et al. 2025) on distributions that sum to one; GOLD's do not, so that every other token
        is pushed down at every position.
    """

    continues = True

    def __init__(self, settings: VocabularyProjectionConfig, *, vocabularies: Vocabularies) -> None:
        if settings.form == "projected" and vocabularies.by_beginning is None:
            raise TeacherError(
                "The projected form needs the teacher's spelling of the student's tokens.",
                fix="make the map with `vocabularies`, or give Vocabularies the paths",
            )
        self.settings = settings
        self.student_width, self.teacher_width = vocabularies.student_width, vocabularies.teacher_width
        self.score_request = Distribution(self.teacher_width, settings.temperature)
        self._first_ids = vocabularies.first_ids
        groups = vocabularies.by_beginning if settings.form == "projected" else None
        self._on_cpu = groups or vocabularies.by_common
        self._on: dict[torch.device, _Groups] = {}
        self._divergence = divergence(settings.divergence, settings.parameters)

    @classmethod
    def from_config(cls, settings: VocabularyProjectionConfig, context: TermContext) -> Self:
        """Build the term for the two models of `context`."""
        return cls(settings, vocabularies=context.require_vocabularies(settings.kind))

    def count(self, batch: TokenBatch) -> int:
        """Count the scored positions; without `rest`, those that have a partner."""
        return (
            super().count(batch)
            if self.settings.rest == "text"
            else int((require_alignment(batch).partner_N >= 0).sum())
        )

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (n,) nats (times T² if the settings require it); without `rest` 0 where there is no partner.

        Raises:
            TeacherError: the teacher's next tokens are not aligned with the student's positions.
        """
        aligned = require_aligned(signal, term=self.name)
        temperature = self.settings.temperature
        every = bool(aligned.has.all())
        grouped_student = self._grouped(student.logp(self.student_width, temperature), None if every else aligned.has)
        targets = student.targets_N[aligned.has]
        teacher_kW = aligned.teacher.logp(self.teacher_width, temperature)
        value = self._values(grouped_student, teacher_kW, targets, aligned)
        if self.settings.rescale_by_temperature_squared:
            value = value * temperature**2
        if self.settings.rest == "text":
            cold = student.logp(self.student_width, 1.0)
            # sums over groups take as long as a softmax: those of temperature 1 are already computed
            seen = grouped_student if temperature == 1.0 else self._grouped(cold, None if every else aligned.has)
            value = value + self._within(seen, targets, aligned)
            strict = self.settings.form == "strict"
            if every and not strict:
                return value
            missed = -cold.gather(1, student.targets_N[:, None])[:, 0]
            if strict:
                value = torch.where(self._one_to_one(targets, aligned), value, missed[aligned.has])
            return missed.masked_scatter(aligned.has, value)
        return value if every else value.new_zeros(aligned.has.shape).masked_scatter(aligned.has, value)

    def _grouped(self, logp_nV: Tensor, has: Tensor | None) -> _StudentLogp:
        """Return the student at the positions with a partner; None: all have one."""
        kept = logp_nV if has is None else logp_nV[has]
        grouping = self._groups(kept.device).student
        found = grouped(kept, grouping)
        return _StudentLogp(kept, found, None if grouping.complete else found.logsumexp(dim=-1))

    def _within(self, student: _StudentLogp, targets: Tensor, aligned: AlignedTokens) -> Tensor:
        """Return (k,) −log of the student's token within its outcome."""
        student_kV, student_logp = student.logp_kV, student.groups_kG
        groups = self._groups(student_kV.device)
        group_v = groups.student.of[targets]
        outcome = student_logp.gather(1, group_v.clamp(min=0)[:, None])[:, 0]
        alone = self._is_apart(targets, aligned).nonzero()[:, 0]
        if alone.numel():
            inside_V = groups.longer_students(targets[alone])
            one = student_kV[alone].masked_fill(~inside_V, -torch.inf).logsumexp(dim=-1)
            outcome = outcome.index_copy(0, alone, one)
        if student.total_k is not None:
            outcome = outcome - student.total_k
        actual = student_kV.gather(1, targets[:, None])[:, 0]
        return torch.where(group_v >= 0, outcome, 0.0) - actual

    def _is_apart(self, targets: Tensor, aligned: AlignedTokens) -> Tensor:
        """Return (k,) bool: the student's token is a separate outcome, apart from its group."""
        spelled = self._groups(targets.device).spelled
        return torch.zeros_like(aligned.whole) if spelled is None else aligned.whole & spelled.separable[targets]

    def _one_to_one(self, targets: Tensor, aligned: AlignedTokens) -> Tensor:
        """Return (k,) bool: the student's token and the teacher's are the same one, and so a whole span for both."""
        groups = self._groups(targets.device)
        group_v = groups.student.of[targets]
        return (group_v >= 0) & (group_v == groups.teacher.of[aligned.teacher_ids])

    def _values(self, student: _StudentLogp, teacher_kW: Tensor, targets: Tensor, aligned: AlignedTokens) -> Tensor:
        """Return (k,) of the student's and (k, W) the teacher's log-probabilities."""
        student_kV = student.logp_kV
        groups = self._groups(student_kV.device)
        continuation = aligned.continuation_logp.clamp(max=-_ROUNDING)
        event = teacher_kW.gather(1, aligned.teacher_ids[:, None])[:, 0] + aligned.continuation_logp
        group_w, group_v = groups.teacher.of[aligned.teacher_ids], groups.student.of[targets]
        apart = self._is_apart(targets, aligned)
        taken = apart | (group_v != group_w)
        moved = taken & ~apart & (group_v >= 0)
        changed = taken.nonzero()[:, 0]
        if changed.numel():
            teacher_kW = teacher_kW.clone()
            stays = torch.log(-torch.expm1(continuation[changed]))
            teacher_kW[changed, aligned.teacher_ids[changed]] += stays
        value = self._compared(student, teacher_kW, event, group_v, moved)
        alone = apart.nonzero()[:, 0]
        if not alone.numel():
            return value
        # few rows, computed twice: to leave them out of the many would cost a copy of all
        return value.index_copy(
            0, alone, self._apart(student_kV[alone], teacher_kW[alone], event[alone], targets[alone])
        )

    def _compared(
        self, student: _StudentLogp, teacher_kW: Tensor, event: Tensor, group_v: Tensor, moved: Tensor
    ) -> Tensor:
        """Return (k,) over the groups; where `moved`, the event is carried over to the group of the student's token."""
        groups = self._groups(teacher_kW.device)
        teacher_logp = grouped(teacher_kW, groups.teacher)
        rows = moved.nonzero()[:, 0]
        if rows.numel():
            if teacher_logp is teacher_kW:
                teacher_logp = teacher_kW.clone()
            places = (rows, group_v[rows])
            teacher_logp[places] = torch.logaddexp(teacher_logp[places], event[rows])
        total = student.total_k
        student_kV = student.groups_kG if total is None else student.groups_kG - total[:, None]
        return self._weighed(student_kV, teacher_logp, groups)

    def _apart(self, student_kV: Tensor, teacher_kW: Tensor, event: Tensor, targets: Tensor) -> Tensor:
        """Return (k,) over the groups and one more outcome: the student's token that follows."""
        groups = self._groups(student_kV.device)
        inside_V, inside_W = groups.longer_students(targets), groups.longer_teachers(targets)
        student_one = student_kV.masked_fill(~inside_V, -torch.inf).logsumexp(dim=-1, keepdim=True)
        teacher_one = torch.logaddexp(
            teacher_kW.masked_fill(~inside_W, -torch.inf).logsumexp(dim=-1, keepdim=True), event[:, None]
        )
        student_logp = grouped(student_kV.masked_fill(inside_V, -torch.inf), groups.student)
        teacher_logp = grouped(teacher_kW.masked_fill(inside_W, -torch.inf), groups.teacher)
        student_logp = torch.cat([student_logp, student_one], dim=-1)
        if not groups.student.complete:
            student_logp = student_logp.log_softmax(dim=-1)
        return self._weighed(student_logp, torch.cat([teacher_logp, teacher_one], dim=-1), groups)

    def _weighed(self, student_logp: Tensor, teacher_logp: Tensor, groups: _Groups) -> Tensor:
        """Return (k,) the divergence of the normalised teacher, times the teacher's mass before normalisation."""
        if groups.student.complete and groups.teacher.complete:
            return self._divergence(student_logp=student_logp, teacher_logp=teacher_logp)
        total = teacher_logp.logsumexp(dim=-1, keepdim=True)
        value = self._divergence(student_logp=student_logp, teacher_logp=teacher_logp - total)
        return value * total[:, 0].exp()

    def _groups(self, device: torch.device) -> _Groups:
        if device not in self._on:
            self._on[device] = _Groups(self._on_cpu, self._first_ids, device)
        return self._on[device]


@dataclass(frozen=True)
class _StudentLogp:
    """The student's log-probabilities: (k, V) of tokens, (k, G) of groups, (k,) of all groups together; None: 0."""

    logp_kV: Tensor
    groups_kG: Tensor
    total_k: Tensor | None


class _Groups:
    """The groups of both vocabularies, on a device."""

    def __init__(self, groups: TokenGroups, first_ids: Tensor, device: torch.device) -> None:
        self.student, self.teacher = Grouping(groups.student.to(device)), Grouping(groups.teacher.to(device))
        self.spelled: SpelledTokens | None = None
        self.rank_of_first = torch.full_like(self.teacher.of, -1)
        if (found := groups.spelled) is not None:
            self.spelled = SpelledTokens(
                *(part.to(device) for part in (found.rank, found.start, found.end, found.separable))
            )
            first = first_ids.to(device)
            self.rank_of_first = torch.where(first >= 0, self.spelled.rank[first.clamp(min=0)], -1)

    def longer_students(self, ids: Tensor) -> Tensor:
        """Return (n, V) bool: the student's tokens whose teacher spelling begins with the spelling of each of these."""
        assert self.spelled is not None
        return _between(self.spelled.rank, self.spelled, ids)

    def longer_teachers(self, ids: Tensor) -> Tensor:
        """Return (n, W) bool: the teacher's tokens that the student would begin with one of those."""
        assert self.spelled is not None
        return _between(self.rank_of_first, self.spelled, ids)


def _between(rank: Tensor, spelled: SpelledTokens, ids: Tensor) -> Tensor:
    return (rank >= spelled.start[ids][:, None]) & (rank < spelled.end[ids][:, None])


def require_aligned(signal: TeacherScores | None, *, term: str) -> AlignedTokens:
    """Return the teacher's next tokens at the partners of the student's positions.

    Raises:
        TeacherError: there is none, or the batch was made for one tokenizer alone.
    """
    if not isinstance(signal, AlignedTokens):
        raise TeacherError(
            f"The term {term} reads two tokenisations, and the batch has one.",
            fix="make batches with a PairedCollator",
        )
    return signal
