"""Divergence between next-token distributions of two vocabularies, where both tokenisations begin a token.

Shape letters: n student positions, k those with a partner, V student vocabulary, W teacher vocabulary, C tokens that
both have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillab.config.terms import TokenNeed, VocabularyProjectionConfig
from distillab.data.vocabularies import Vocabularies
from distillab.divergences.by_name import divergence
from distillab.errors import ConfigError, TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.meetings import partners
from distillab.objectives.term import Said, StudentScores, TokenTerm
from distillab.records import AccessLevel
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import Distribution

# Infinite where the teacher's side is 0, as it is for every student token that no teacher token leads to.
_NEEDS_FULL_SUPPORT = ("reverse_kl", "adaptive_kl", "alpha_beta")


class VocabularyProjection(TokenTerm):
    """D(teacher, student) over one vocabulary, at the positions from which both predict the same text.

    Only there do the two distributions speak of the same thing: what either model has read ends at the same byte.

        projected   p̂(v) = Σ p(w) over the teacher tokens w whose text a student would begin with v
        common      both over the C tokens that both vocabularies have, and all others together as one outcome

    The teacher may need several tokens for what is one token of the student's (`Lon` `don`, `London`). Then a part of
    what it gives to its first piece belongs to the student's token: p(Lon) · p(don | Lon), by the chain rule, is
    carried over, and only the rest stays with `Lon`. Without that the student would be taught to take words apart.

    Mass of teacher tokens that mean nothing to the student (special tokens without a counterpart) is left out, and the
    rest made to sum to one. No token of the student is suppressed because the teacher does not have it: in the
    common form it is part of the last outcome.

    Args:
        settings: form, divergence, temperature and rescaling.
        vocabularies: the map between both.
    Raises:
        ConfigError: projected, with a divergence that is infinite where p̂ is 0.
    Source: the projection by first pieces and the chain rule are those of X-Token (arXiv:2605.21699), whose weights on
        later pieces we do not take over (those pieces are not next tokens); the common form is that of GOLD (Patiño et
        al. 2025) with the outcome "any other" added, without which every other token is pushed down.
    """

    name: str = "vocabulary_projection"
    access: AccessLevel = VocabularyProjectionConfig.access
    tokens: TokenNeed = VocabularyProjectionConfig.tokens

    def __init__(self, settings: VocabularyProjectionConfig, *, vocabularies: Vocabularies) -> None:
        if settings.form == "projected" and settings.divergence in _NEEDS_FULL_SUPPORT:
            raise ConfigError(
                "A projected distribution is 0 for tokens that no teacher token leads to, where this divergence is "
                "infinite.",
                where=f"vocabulary_projection: divergence {settings.divergence}",
                fix="divergence: forward_kl or jensen_shannon, or form: common",
            )
        self.settings = settings
        self.map = vocabularies
        self.need = Distribution(vocabularies.teacher_width, settings.temperature)
        self._divergence = divergence(settings.divergence, settings.parameters)

    def count(self, batch: TokenBatch) -> int:
        """Scored positions that have a partner."""
        return int((partners(batch) >= 0).sum())

    def per_position(self, student: StudentScores, signal: Said | None) -> Tensor:
        """(n,) nats (times T² where the settings say so); 0 where there is no partner.

        Raises:
            TeacherError: the teacher's word is not aligned with the student's positions.
        """
        aligned = require_aligned(signal, term=self.name)
        temperature = self.settings.temperature
        student_logp = student.logp(self.map.student_width, temperature)[aligned.has]
        teacher_p = aligned.teacher.logp(self.map.teacher_width, temperature).exp()
        moved = _carried_over(teacher_p, aligned)
        if self.settings.form == "projected":
            targets = student.targets_N[aligned.has]
            teacher_logp = self._projected(teacher_p, moved, aligned, targets)
        else:
            student_logp, teacher_logp = self._common(student_logp, teacher_p, moved, aligned)
        value = self._divergence(student_logp=student_logp, teacher_logp=teacher_logp)
        if self.settings.rescale_by_temperature_squared:
            value = value * temperature**2
        nats = torch.zeros(aligned.has.shape, dtype=value.dtype, device=value.device)
        return nats.masked_scatter(aligned.has, value)

    def _projected(self, teacher_p: Tensor, moved: Tensor, aligned: AlignedTokens, targets: Tensor) -> Tensor:
        """(k, V) log p̂."""
        first = self.map.first_ids.to(teacher_p.device)
        mapped = first >= 0
        projected = teacher_p.new_zeros(teacher_p.shape[0], self.map.student_width)
        projected.index_add_(1, first[mapped], teacher_p[:, mapped])
        rows = torch.arange(projected.shape[0], device=projected.device)
        source = first[aligned.teacher_ids]
        moved = moved * (source >= 0)
        projected[rows, source.clamp(min=0)] -= moved
        projected[rows, targets] += moved
        # a difference of almost equal numbers may end a rounding below nothing
        projected = projected.clamp(min=0.0)
        return (projected / projected.sum(dim=-1, keepdim=True)).log()

    def _common(
        self, student_logp: Tensor, teacher_p: Tensor, moved: Tensor, aligned: AlignedTokens
    ) -> tuple[Tensor, Tensor]:
        """(k, C + 1) of both; (k, C) where neither has another token."""
        theirs, ours = (ids.to(teacher_p.device) for ids in self.map.common)
        rows = torch.arange(teacher_p.shape[0], device=teacher_p.device)
        teacher_p = teacher_p.clone()
        teacher_p[rows, aligned.teacher_ids] -= moved
        kept_p = teacher_p[:, theirs].clamp(min=0.0)
        other_ours = torch.ones(student_logp.shape[1], dtype=torch.bool, device=ours.device)
        other_ours[ours] = False
        other_theirs = torch.ones(teacher_p.shape[1], dtype=torch.bool, device=theirs.device)
        other_theirs[theirs] = False
        if not bool(other_ours.any()) and not bool(other_theirs.any()):
            return student_logp[:, ours], kept_p.log()
        rest_p = (teacher_p[:, other_theirs].sum(dim=-1) + moved).clamp(min=0.0)
        student_rest = student_logp[:, other_ours].logsumexp(dim=-1, keepdim=True)
        return (
            torch.cat([student_logp[:, ours], student_rest], dim=-1),
            torch.cat([kept_p, rest_p[:, None]], dim=-1).log(),
        )


def require_aligned(signal: Said | None, *, term: str) -> AlignedTokens:
    """The teacher's word at the partners of the student's positions.

    Raises:
        TeacherError: there is none, or the batch was made for one tokenizer alone.
    """
    if not isinstance(signal, AlignedTokens):
        raise TeacherError(
            f"The term {term} reads two tokenisations side by side, and the batch holds one.",
            fix="make batches with a PairedCollator",
        )
    return signal


def _carried_over(teacher_p: Tensor, aligned: AlignedTokens) -> Tensor:
    """(k,) mass that belongs to the student's one token where the teacher needs several; 0 elsewhere.

    The chain rule is applied at temperature 1 to the further tokens.
    """
    actual = teacher_p.gather(1, aligned.teacher_ids[:, None])[:, 0]
    further = aligned.whole & (aligned.continuation_logp < 0)
    return torch.where(further, actual * aligned.continuation_logp.exp(), 0.0)
