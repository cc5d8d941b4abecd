"""Read a teacher's scores, computed on its own tokens, at the student's aligned positions.

Shape letters: N scored positions of the student, n some of them, k those of the n that have a partner, M scored
positions of the teacher, S spans of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.models.aligned_positions import require_alignment
from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_targets
from distillab.teachers.signals import ChunkedScores, NextTokens

_CHUNK_ROWS = 128


@dataclass(frozen=True)
class PartnerTokens:
    """The teacher's next tokens at those of n student positions that have a partner.

    Attributes:
        has: (n,) bool, which of them have one.
        teacher: at the k partners, in their order.
    """

    has: Tensor
    teacher: NextTokens

    def rows(self, here: slice) -> PartnerTokens:
        """Return the same at some of the n positions."""
        return PartnerTokens(self.has[here], self.teacher.rows(_among(self.has, here)))


@dataclass(frozen=True)
class AlignedTokens(PartnerTokens):
    """Partners by the place in the text: both next tokens begin a shared span.

    Attributes:
        teacher_ids: (k,) int64, the teacher's token that follows there in the text.
        continuation_logp: (k,) float32, log-probability, by the teacher, of the further tokens of the span that this
            token begins; 0 if it is the whole span, or if the teacher's probability of them rounds to 1 in float32.
        whole: (k,) bool, True where the student's next token is the whole span.
        by_order: partners by their number in the answer, if a term reads these.
    """

    teacher_ids: Tensor
    continuation_logp: Tensor
    whole: Tensor
    by_order: PartnerTokens | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, by a name for messages."""
        return self.teacher.tensors()

    def rows(self, here: slice) -> AlignedTokens:
        """Return the same at some of the n positions."""
        kept = _among(self.has, here)
        return AlignedTokens(
            self.has[here],
            self.teacher.rows(kept),
            self.teacher_ids[kept],
            self.continuation_logp[kept],
            self.whole[kept],
            None if self.by_order is None else self.by_order.rows(here),
        )


@dataclass(frozen=True)
class AlignedScores:
    """A teacher's scores over its own M positions, read from the student's N.

    Attributes:
        scores: over M.
        partner_N: by place, see `Alignment`.
        ordinal_N: by number; None if no term reads them.
        target_M: the teacher's next tokens.
        continuation_N: float32, see `AlignedTokens`; 0 where there is no partner.
        whole_N: bool, see `AlignedTokens`.
    """

    scores: ChunkedScores
    partner_N: Tensor
    ordinal_N: Tensor | None
    target_M: Tensor
    continuation_N: Tensor
    whole_N: Tensor

    def chunk(self, here: slice | Tensor, device: torch.device) -> AlignedTokens:
        """Return the scores at some of the N positions; valid until the next call."""
        partner = self.partner_N[here]
        has = partner >= 0
        partners = partner[has]
        by_order = None
        if self.ordinal_N is None:
            scores = self.scores.chunk(partners, device)
        else:
            # in one call, since the next one can use the same memory
            ordinal = self.ordinal_N[here]
            there = ordinal >= 0
            both = self.scores.chunk(torch.cat([partners, ordinal[there]]), device)
            scores = both.rows(slice(0, partners.shape[0]))
            by_order = PartnerTokens(there.to(device), both.rows(slice(partners.shape[0], both.positions)))
        return AlignedTokens(
            has.to(device),
            scores,
            self.target_M[partners].to(device),
            self.continuation_N[here][has].to(device),
            self.whole_N[here][has].to(device),
            by_order,
        )


@torch.no_grad()
def align(
    scores: ChunkedScores, batch: TokenBatch, *, width: int, ordinal: bool, continues: bool, device: torch.device
) -> AlignedScores:
    """Return the scores of `batch["teacher"]`, to be read from the student's positions.

    Args:
        device: where the two are compared: the student's, whatever the batch's device.
        width: ids that the teacher's tokenizer has; further rows of its logits get no probability.
        ordinal: also find partners by their number in the answer.
        continues: compute `AlignedTokens.continuation_logp`; without it it is 0, and no whole distribution is read.
    """
    alignment = require_alignment(batch)
    shared, partner_N, teacher = alignment.shared_S, alignment.partner_N, alignment.teacher
    target_M = scored_targets(batch["teacher"])
    further_M = teacher.inside(shared) & ~teacher.starts_N
    continuation_S = torch.zeros(shared.shape, dtype=torch.float32, device=shared.device)
    if continues:
        further = actual_logp(scores, further_M.nonzero()[:, 0], target_M, width=width, device=device)
        continuation_S.index_add_(0, teacher.spans_N[further_M], further.to(shared.device))
    spans_N = alignment.student.spans_N
    tokens_S = torch.bincount(spans_N[spans_N >= 0], minlength=shared.shape[0])
    span_N = spans_N.clamp(min=0)
    has_N = partner_N >= 0
    return AlignedScores(
        scores,
        partner_N,
        alignment.ordinal_N if ordinal else None,
        target_M,
        torch.where(has_N, continuation_S[span_N], 0.0),
        (tokens_S[span_N] == 1) & has_N,
    )


def _among(has: Tensor, here: slice) -> slice:
    """Return the places of the partners of some positions among those of all."""
    before = int(has[: here.start].sum())
    return slice(before, before + int(has[here].sum()))


@torch.no_grad()
def actual_logp(
    scores: ChunkedScores,
    places: Tensor,
    target_M: Tensor,
    *,
    width: int,
    device: torch.device,
    temperature: float = 1.0,
) -> Tensor:
    """Return (len(places),) float32 log-probabilities of the teacher's own next tokens at some of its positions.

    Args:
        places: indices into the M positions.
        width, device: see `align`; the result is there.
        temperature: the teacher's logits are divided by it.
    """
    found = [torch.zeros(0, device=device)]
    for here in places.split(_CHUNK_ROWS):
        logp = scores.chunk(here, device).logp(width, temperature)
        found.append(logp.gather(1, target_M[here].to(device)[:, None])[:, 0])
    return torch.cat(found)
