"""A weighted mixture of the distributions of several teachers.

Shape letters: N scored positions, n some of them, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.teachers.composed import composed_identity
from distillab.teachers.protocol import SignalSource, TeacherIdentity, tokens_read
from distillab.teachers.signals import ChunkedScores, Distribution, FullLogits, SignalRequest, TeacherSignal


def mixed_logp(logps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the log-probabilities of a mixture.

        log p_v = log Σ_i w_i exp(l_iv),   computed as logsumexp_i (log w_i + l_iv)

    Args:
        logps: (n, V) natural-log probabilities of each teacher, in one vocabulary; −inf means exactly no mass.
        weights: of each, positive; their sum is 1.
    Returns:
        (n, V) in the dtype of the first; a token has probability as soon as one teacher gives it some.
    """
    parts = [logp.to(logps[0]) + math.log(weight) for logp, weight in zip(logps, weights, strict=True)]
    return torch.logsumexp(torch.stack(parts), dim=0)


@dataclass(frozen=True)
class MixedScores:
    """The mixture's scores at the N scored positions of a batch.

    Attributes:
        parts: the scores of each teacher.
        weights: of each.
        width: ids over which all distributions are taken.
    """

    parts: Sequence[ChunkedScores]
    weights: Sequence[float]
    width: int

    @property
    def device(self) -> torch.device:
        """Of the first part's scores."""
        return self.parts[0].device

    @torch.no_grad()
    def chunk(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """Return log p at some of the positions, as logits."""
        logps = [part.chunk(here, device).logp(self.width, 1.0) for part in self.parts]
        return FullLogits(mixed_logp(logps, self.weights))


@dataclass(frozen=True, eq=False)
class MixedTeacher:
    """A source whose distribution is the mixture p = Σ w_i p_i of those of several teachers.

    Each p_i is over the ids that a run compares, at temperature 1. Whatever a term reads is computed from p as from the
    distribution of one teacher: its most likely tokens, draws, and with a temperature T the distribution p^(1/T)
    normalised. So at T ≠ 1 it is not the mixture of the teachers' softened distributions.

    Args:
        parts: name -> source.
        weights: name -> weight; positive, and their sum is 1.
    """

    parts: Mapping[str, SignalSource]
    weights: Mapping[str, float]

    @property
    def identity(self) -> TeacherIdentity:
        """Of all parts together with their weights; it has no layers, and no head."""
        return composed_identity({name: (self.weights[name], part.identity) for name, part in self.parts.items()})

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that every part gives its whole distribution.

        Raises:
            TeacherError: activations are requested; or as the parts.
        """
        if request.activations:
            raise TeacherError(
                "A mixture of teachers has a distribution, and no hidden states or attention.",
                fix="use terms on logits, or name each row's teacher by data.teacher_column",
            )
        for part in self.parts.values():
            part.require(self._whole(request), packing=packing)

    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the mixture's scores, computed where they are read."""
        whole = self._whole(request)
        found = [part.signal(batch, whole).scores for part in self.parts.values()]
        scores = [one for one in found if one is not None]
        (need,) = whole.scores
        return TeacherSignal(scores=MixedScores(scores, [self.weights[name] for name in self.parts], need.width))

    def tokens(self, batch: TokenBatch) -> int:
        """Count the tokens that all teachers read for a batch."""
        return sum(tokens_read(part, batch) for part in self.parts.values())

    @staticmethod
    def _whole(request: SignalRequest) -> SignalRequest:
        """Return the request for each part: its whole distribution over the ids that are compared."""
        return SignalRequest(scores=frozenset({Distribution(max(need.width for need in request.scores))}))
