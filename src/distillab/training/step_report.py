"""What the trainer reports of one optimizer step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """Measurements of one optimizer step, over all processes.

    Attributes:
        step: number of the step, from 1.
        terms: term -> (sum in its unit, count).
        weights: term -> its factor at this step.
        gradient_shares: term -> its share of the gradient norm; None at steps without measurement.
        gradient_cosines: "term ~ term" -> cosine between the two gradients; None if the shares are.
        loss: the weighted objective.
        grad_norm: before clipping.
        learning_rate: that the step used.
        supervised_tokens: tokens that are predicted and scored.
        tokens: tokens that the student reads, prompts included.
        teacher_tokens: tokens of the same text as the teacher reads it.
        rollout: figures of what the student wrote (`training.rollout_log`); None if it writes nothing.
        spent: share of the budget that is used after it, above 1 by the last step; None: the budget is steps.
        last: no other follows.
    """

    step: int
    terms: dict[str, tuple[float, int]]
    weights: dict[str, float]
    gradient_shares: dict[str, float] | None
    gradient_cosines: dict[str, float] | None
    loss: float
    grad_norm: float
    learning_rate: float
    supervised_tokens: int
    tokens: int
    teacher_tokens: int
    rollout: dict[str, float] | None = None
    spent: float | None = None
    last: bool = False
