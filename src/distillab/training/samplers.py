"""Who writes the student's answers during training, and whether it has the student's weights.

Shapes: B prompts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from distillab.errors import NumericsError
from distillab.models.rollout import Sampled, sample_answers

ALLOWED_GAP = 0.02  # nats


class Sampler(Protocol):
    """Writes answers with the student's weights.

    Attributes:
        name: in messages.
        width: its log-probabilities are those among the first so many ids.
        remedy: what to do if they are not the student's.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]

    @property
    def width(self) -> int:
        """See the class."""
        ...

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Continue each prompt by at most T tokens.

        Args:
            model: the student as it is now.
            prompts: ids; at least one prompt, and one id each.
            uniform_BT: (B, T) float64 numbers in [0, 1), from which all that is random follows.
        """
        ...


@dataclass(frozen=True)
class LocalSampler:
    """The loop of this process: see `sample_answers`."""

    name: ClassVar[str] = "local"
    remedy: ClassVar[str] = "set training.precision: float32; if it is, report this"

    stop_ids: tuple[int, ...]
    width: int
    temperature: float

    def sample(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]], uniform_BT: Tensor) -> list[Sampled]:
        """Continue each prompt; the same numbers give the same answers."""
        return sample_answers(
            model,
            prompts,
            stop_ids=self.stop_ids,
            width=self.width,
            temperature=self.temperature,
            uniform_BT=uniform_BT,
        )


def require_small_gap(gap: float, sampler: Sampler, *, step: int) -> None:
    """Check that a sampler computes with the student's weights.

    Args:
        gap: mean |log-probability by the sampler − by the forward pass that trains|, over the tokens of a step.
    Raises:
        NumericsError: it is above 0.02 nats.
    """
    if not gap <= ALLOWED_GAP:
        raise NumericsError(
            "The sampler does not have the student's weights, or computes otherwise, so training stopped.",
            where=f"step {step}, answers.sampler: {sampler.name}",
            facts=[
                f"the log-probability of a written token differs by {gap:.3g} nats on average, allowed {ALLOWED_GAP:g}"
            ],
            fix=sampler.remedy,
        )
