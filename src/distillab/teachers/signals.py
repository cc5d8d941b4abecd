"""What a teacher says about a batch: small frozen classes, each with exactly its own fields.

Shape letters: N flattened scored positions of the batch, in row order; W teacher vocabulary; D teacher width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from distillab.models.capture import Captured, Inner
from distillab.models.heads import OutputHead


@dataclass(frozen=True)
class FullLogits:
    """The teacher's raw scores for the next token, at every scored position or at some of them."""

    logits_NW: Tensor
    _logp: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def logp(self, width: int, temperature: float) -> Tensor:
        """(N, width) float32 log-probabilities over the first `width` ids; made once for all terms."""
        key = (width, temperature)
        if key not in self._logp:
            self._logp[key] = log_probabilities(self.logits_NW, width, temperature)
        return self._logp[key]

    def tile(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """The same at some of the positions."""
        return FullLogits(self.logits_NW[here].to(device))


@dataclass(frozen=True)
class HeadInputs:
    """The teacher's last hidden states with its head: logits are made where and when they are read."""

    hidden_ND: Tensor
    head: OutputHead
    _memory: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    @torch.no_grad()
    def tile(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """Full logits at some of the positions, valid until the next call: all tiles use the same memory."""
        hidden_ND = self.hidden_ND[here]
        rows, width = hidden_ND.shape[0], self.head.weight_VD.shape[0]
        if not self._memory or self._memory[0].shape[0] < rows:
            self._memory[:] = [self.head.weight_VD.new_empty(rows, width)]
        return FullLogits(self.head.logits(hidden_ND, out=self._memory[0][:rows]).to(device))


class TeacherScores(Protocol):
    """A teacher's word on the next token at the N scored positions of a batch."""

    def tile(self, here: slice | Tensor, device: torch.device) -> FullLogits:
        """What it says at the positions `here` of the N, on the device where it is compared; until the next call."""
        ...


@dataclass(frozen=True)
class SignalRequest:
    """What a run's terms read of the teacher."""

    scores: bool = False
    inner: Inner = field(default_factory=Inner)

    def __bool__(self) -> bool:
        return self.scores or bool(self.inner)


@dataclass(frozen=True)
class TeacherSignal:
    """What was asked for; None where it was not."""

    scores: TeacherScores | None = None
    inner: Captured | None = None


def log_probabilities(logits_NV: Tensor, width: int, temperature: float) -> Tensor:
    """(N, width) float32: log-softmax of the first `width` logits divided by the temperature.

    Cut before the softmax, so that unused rows of a padded vocabulary get no probability; in float32, because
    bfloat16 log-probabilities have three significant digits.
    """
    kept = logits_NV if logits_NV.shape[1] == width else logits_NV[:, :width]
    scaled = kept.float() if temperature == 1.0 else kept.float() / temperature
    return torch.log_softmax(scaled, dim=-1)
