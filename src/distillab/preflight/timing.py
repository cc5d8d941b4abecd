"""Seconds of what a run repeats, measured on the recipe's device: steps, evaluated rows, written tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from distillab.data.encoding import EncodedSplit
from distillab.data.reading import Reader
from distillab.doctor.clock import Clock
from distillab.evaluation.protocol import evaluate
from distillab.models.aligned_positions import teacher_batch
from distillab.models.generation import Decoding, generate_batches
from distillab.preflight.setup import Setup
from distillab.preflight.stepping import step
from distillab.runs.training_data import training_data
from distillab.training.arguments import microbatch_size

_STEPS = 3  # the first one is slower, and is not counted
_TOKENS = 8
_ROWS = 8
_SEED = 0


@dataclass(frozen=True)
class StepTime:
    """One optimizer step of one objective.

    Attributes:
        step_s: of a step, with a live teacher where there is one.
        teacher_s: of the teacher's part.
        measured: on rows as the run has them; False: extrapolated from the few short rows by their tokens.
    """

    step_s: float
    teacher_s: float
    measured: bool


def step_time(setup: Setup, clock: Clock) -> StepTime:
    """Return the seconds of a step: measured on random rows if there is time for it.

    Args:
        clock: what is left of the time; its unit was measured.
    """
    rows = setup.inputs.train.rows
    mean = sum(len(row) for row in rows) / len(rows)
    few = sum(setup.data.lengths)
    expected = clock.unit_s * setup.recipe.training.batch_size * mean / few
    if clock.refuses_s(_STEPS * expected) is not None:
        return StepTime(expected, 0.0, measured=False)
    split = _drawn(setup, _STEPS * setup.recipe.training.batch_size)
    training = setup.recipe.training.model_copy(
        update={"steps": _STEPS, "warmup_steps": 0, "gradient_shares_every": _shares(setup)}
    )
    data = training_data(setup.inputs, split)
    seconds = step(setup, setup.student(), training, data=data).seconds[1:]
    teacher_s = 0.0
    if setup.teacher is not None:
        size = microbatch_size(training, 1)
        places = range(min(size, len(data.lengths)))
        batch = data.collator([data.rows[place] for place in places])
        request = setup.objective(setup.student()).request
        since = time.perf_counter()
        setup.teacher.signal(teacher_batch(batch), request)
        teacher_s = (time.perf_counter() - since) * training.batch_size / len(places)
    return StepTime(sum(seconds) / len(seconds), teacher_s, measured=True)


def written_s(model: PreTrainedModel, reader: Reader, prompts: Sequence[Sequence[int]], *, batch_size: int) -> float:
    """Return the seconds of one further token of a batch of answers.

    Args:
        reader: the model's.
        prompts: of which the first batch is answered.
    """
    stop_ids = reader.encoder.stop_ids
    since = time.perf_counter()
    for _ in generate_batches(
        model, prompts[:batch_size], decoding=Decoding(_TOKENS), stop_ids=stop_ids, batch_size=batch_size
    ):
        pass
    return (time.perf_counter() - since) / _TOKENS


def row_s(setup: Setup, student: PreTrainedModel) -> float:
    """Return the seconds of one held-out row, by the recipe's protocol, without an answer."""
    since = time.perf_counter()
    found = evaluate(
        student,
        setup.inputs.held_out.first(_ROWS),
        setup.recipe.evaluation.model_copy(update={"rows": _ROWS, "generate_rows": 0, "tasks": ()}),
        reader=setup.inputs.student,
        shared=None,
        label="the preflight",
    )
    return (time.perf_counter() - since) / found.record.n("held-out rows")


def _drawn(setup: Setup, count: int) -> EncodedSplit:
    split = setup.inputs.train
    places = random.Random(_SEED).sample(range(len(split.rows)), min(count, len(split.rows)))
    return EncodedSplit(
        [split.rows[place] for place in places], [split.examples[place] for place in places], split.counts
    )


def _shares(setup: Setup) -> int:
    """Return `gradient_shares_every` for the timed steps: shares at the first step only, or never."""
    return 0 if setup.recipe.training.gradient_shares_every == 0 else _STEPS + 1
