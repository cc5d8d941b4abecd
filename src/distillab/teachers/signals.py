"""The signal of a teacher on a batch, and the request for it, as small frozen classes.

Shape letters: N flattened scored positions of the batch, in row order; W teacher vocabulary; D teacher width; K kept
tokens or draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from distillab.config.layer_terms import Positions
from distillab.divergences.fused import Probabilities
from distillab.divergences.sampled import sampled_cross_entropy
from distillab.divergences.truncated import logmass_outside
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.heads import OutputHead
from distillab.teachers.drawing import draw


@dataclass(frozen=True)
class Distribution:
    """A request: the whole distribution over the first `width` ids, at a temperature."""

    width: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Top:
    """A request: the k most likely of the first `width` ids, at a temperature."""

    k: int
    width: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Draws:
    """A request: this number of draws from the distribution over the first `width` ids, at a temperature."""

    samples: int
    width: int
    temperature: float = 1.0


ScoreRequest = Distribution | Top | Draws


@dataclass(frozen=True)
class TopTokens:
    """The most likely tokens of each position.

    ids: (N, K) int64, most likely first. logp: (N, K) float32, their true natural-log probabilities, not renormalised.
    tail_logmass: (N,) float32, log-probability of all other tokens together.
    """

    ids: Tensor
    logp: Tensor
    tail_logmass: Tensor

    def first(self, k: int) -> TopTokens:
        """Return the k ≤ K most likely; the others are added to the tail."""
        if k == self.ids.shape[1]:
            return self
        dropped = torch.cat([self.logp[:, k:], self.tail_logmass[:, None]], dim=1)
        return TopTokens(self.ids[:, :k], self.logp[:, :k], dropped.logsumexp(dim=1))


@dataclass(frozen=True)
class DrawnTokens:
    """Tokens drawn from the teacher, independently and with replacement.

    ids: (N, K) int64, an id as often as it was drawn. entropy_estimate: (N,) float32, −1/K Σ log p of the draws.
    """

    ids: Tensor
    entropy_estimate: Tensor


class NextTokens(Protocol):
    """The next tokens of a teacher at some positions.

    A term reads one of three forms, which its `SignalRequest` names in advance. A teacher that does not have a form
    raises TeacherError.
    """

    @property
    def positions(self) -> int:
        """N."""
        ...

    @property
    def width(self) -> int:
        """Ids of the distribution."""
        ...

    def rows(self, here: slice) -> NextTokens:
        """Return the same at some of the positions."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, by a name for messages."""
        ...

    def logp(self, width: int, temperature: float) -> Tensor:
        """Return (N, width) float32 log-probabilities over the first `width` ids."""
        ...

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """Return the k most likely of the first `width` ids."""
        ...

    def actual(self, targets_n: Tensor, width: int, temperature: float) -> Tensor:
        """Return (N,) log-probabilities of the tokens that follow; −inf for an id beyond `width`."""
        ...

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """Return draws from the distribution over the first `width` ids."""
        ...


@dataclass(frozen=True)
class FullLogits:
    """The teacher's raw scores for the next token, at every scored position or at some of them."""

    logits_NW: Tensor
    _logp: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def positions(self) -> int:
        """N."""
        return self.logits_NW.shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.logits_NW.shape[1]

    @property
    def device(self) -> torch.device:
        """Of the logits."""
        return self.logits_NW.device

    def rows(self, here: slice) -> FullLogits:
        """Return the same at some of the positions."""
        return FullLogits(self.logits_NW[here])

    def tensors(self) -> dict[str, Tensor]:
        """Return the logits."""
        return {"the teacher's logits": self.logits_NW}

    def logp(self, width: int, temperature: float) -> Tensor:
        """Return (N, width) float32 log-probabilities over the first `width` ids; made once for all terms."""
        key = (width, temperature)
        if key not in self._logp:
            self._logp[key] = log_probabilities(self.logits_NW, width, temperature)
        return self._logp[key]

    def top(self, k: int, width: int, temperature: float) -> TopTokens:
        """Return the k most likely of the first `width` ids, and the mass of all others."""
        logp = self.logp(width, temperature)
        kept_logp, kept_ids = logp.topk(k, dim=-1)
        return TopTokens(kept_ids, kept_logp, logmass_outside(logp=logp, kept_ids=kept_ids))

    def actual(self, targets_n: Tensor, width: int, temperature: float) -> Tensor:
        """Return (N,) log-probabilities of the tokens that follow; −inf for an id beyond `width`."""
        targets_n = targets_n.to(self.logits_NW.device)
        logp_n = self.logp(width, temperature).gather(1, targets_n.clamp(max=width - 1)[:, None])[:, 0]
        return logp_n.masked_fill(targets_n >= width, -torch.inf)

    def drawn(self, samples: int, width: int, temperature: float) -> DrawnTokens:
        """Return new draws, from torch's own random state of the device where the logits are."""
        logp = self.logp(width, temperature)
        ids = draw(logp, samples)
        return DrawnTokens(ids, sampled_cross_entropy(student_logp=logp, drawn_ids=ids))

    def chunk(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """Return the same at some of the positions."""
        return FullLogits(self.logits_NW[here].to(device))


@dataclass(frozen=True)
class HeadInputs:
    """The teacher's last hidden states with its head: logits are computed where they are read."""

    hidden_ND: Tensor
    head: OutputHead
    _memory: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Of the hidden states."""
        return self.hidden_ND.device

    @torch.no_grad()
    def chunk(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """Return full logits at some of the positions, valid until the next call: all chunks use the same memory."""
        hidden_ND = self.hidden_ND[here]
        rows, width = hidden_ND.shape[0], self.head.weight_VD.shape[0]
        if not self._memory or self._memory[0].shape[0] < rows:
            self._memory[:] = [self.head.weight_VD.new_empty(rows, width)]
        return FullLogits(self.head.logits(hidden_ND, out=self._memory[0][:rows]).to(device))


class ChunkedScores(Protocol):
    """A teacher's next tokens at the N scored positions of a batch, given a chunk at a time."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        ...

    def chunk(self, here: slice | Tensor, device: torch.device) -> NextTokens:
        """Return the next tokens at the positions `here` of the N, on a device; valid until the next call."""
        ...


@dataclass(frozen=True)
class SignalRequest:
    """The signals that a run's terms read of the teacher.

    hidden_at: at which positions the terms read hidden states; empty means all. A model gives them at all positions,
    a cache can hold those of the answer alone.
    """

    scores: frozenset[ScoreRequest] = frozenset()
    activations: ActivationSpec = field(default_factory=ActivationSpec)
    hidden_at: frozenset[Positions] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.scores or self.activations)


@dataclass(frozen=True)
class TeacherSignal:
    """The requested signals; None for those that are not requested."""

    scores: ChunkedScores | None = None
    activations: Activations | None = None


def probabilities(tokens: NextTokens, width: int, temperature: float) -> Probabilities:
    """Return a teacher's whole distribution over the first `width` ids; from logits, nothing is computed yet."""
    if isinstance(tokens, FullLogits):
        return Probabilities(scaled_logits(tokens.logits_NW, width, temperature))
    return Probabilities(tokens.logp(width, temperature), normalised=True)


def log_probabilities(logits_NV: Tensor, width: int, temperature: float) -> Tensor:
    """Return (N, width) float32: log-softmax of the first `width` logits divided by the temperature.

    Cut before the softmax, so that unused rows of a padded vocabulary get no probability; in float32, because
    bfloat16 log-probabilities have three significant digits.
    """
    return torch.log_softmax(scaled_logits(logits_NV, width, temperature), dim=-1)


def scaled_logits(logits_NV: Tensor, width: int, temperature: float) -> Tensor:
    """Return (N, width) float32: the first `width` logits divided by the temperature."""
    kept = logits_NV if logits_NV.shape[1] == width else logits_NV[:, :width]
    return kept.float() if temperature == 1.0 else kept.float() / temperature
