"""What a pruning costs and gains: a model's size, held-out loss and speed, before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass

from transformers import PreTrainedModel

from distillab.evaluation.likelihood import score_rows
from distillab.evaluation.protocol import HeldOut
from distillab.runs.inputs import RunInputs

_PASSES = 3


@dataclass(frozen=True)
class Measured:
    """A model on the held-out rows.

    Attributes:
        nats_per_token: of their answers.
        tokens_per_s: that it reads, prompts too, head and loss included.
    """

    parameters: int
    nats_per_token: float
    tokens_per_s: float


def measured(inputs: RunInputs, model: PreTrainedModel) -> Measured:
    """Evaluate a model on the held-out rows. Its speed is the best of several passes over one batch of them."""
    settings, held_out = inputs.recipe.evaluation, inputs.held_out.first(inputs.recipe.evaluation.rows)
    passes = [_scored(inputs, model, held_out.first(settings.batch_size)) for _ in range(_PASSES)]
    tokens = sum(map(len, held_out.rows[: settings.batch_size]))
    nats, _ = _scored(inputs, model, held_out)
    return Measured(model.num_parameters(), nats, tokens / min(seconds for _, seconds in passes))


def _scored(inputs: RunInputs, model: PreTrainedModel, held_out: HeldOut) -> tuple[float, float]:
    """Return nats per token and seconds."""
    start = time.perf_counter()
    scores = score_rows(
        model,
        held_out.rows,
        collator=inputs.student.collator(),
        batch_size=inputs.recipe.evaluation.batch_size,
        stop_ids=held_out.stop_ids,
    )
    return float(scores.nats.sum() / scores.tokens.sum()), time.perf_counter() - start
