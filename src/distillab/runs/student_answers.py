"""How the student of a run writes answers during training, and whether it can."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.training import TrainingConfig
from distillab.errors import ConfigError
from distillab.models.loading import context_length
from distillab.models.probing import coarsest, embedding_rows
from distillab.models.rollout import require_samples, trains_with_dropout
from distillab.models.structure import is_adapted
from distillab.processes import world_size
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher_view import vocab_size
from distillab.runs.training_data import TrainingData
from distillab.training.rollout import Rollout
from distillab.training.samplers import ContinuousBatching, Sampler
from distillab.training.served_sampler import ServedSampler


def rollout_for(inputs: RunInputs, student: PreTrainedModel, data: TrainingData) -> Rollout | None:
    """Return how the student writes answers during training; None if it writes none.

    Raises:
        ConfigError: an answer does not fit into a context, the student cannot write any, or none could end.
        DataError: a row has no prompt.
    """
    own, settings = inputs.method.own, inputs.recipe.training
    if own is None:
        return None
    view = inputs.require_teacher()
    stop_ids = inputs.student.encoder.stop_ids
    width = vocab_size(view.contract.student) if view.own_tokens else view.compared_width
    _require_context(inputs, own, student, data)
    if all(token >= width for token in stop_ids):
        raise ConfigError(
            "No token that ends an answer is among those that student and teacher share, so no answer would end.",
            facts=[f"ids that end an answer: {', '.join(map(str, stop_ids))}", f"shared: the first {width} ids"],
            fix="use answers: dataset or teacher",
        )
    require_samples(student)
    dropout = trains_with_dropout(student)
    sampler = _other_sampler(own, settings, student, stop_ids, width, dropout)
    # of the local one; in bfloat16 its mean gap is up to 0.017 nats for small students without any error
    exact = settings.precision == "float32" and torch.finfo(coarsest(student, student.device)).bits >= 32
    return Rollout(
        own,
        data.split.rows,
        data.collator,
        stop_ids,
        width,
        settings.steps,
        settings.batch_size,
        inputs.recipe.seed,
        data.pairs,
        sampler=sampler,
        checks_sampler=sampler is not None or (exact and not dropout),
    )


def _require_context(
    inputs: RunInputs, own: StudentAnswersConfig, student: PreTrainedModel, data: TrainingData
) -> None:
    """Check that the longest prompt and the longest answer fit into the contexts of both models."""
    rows, view = data.split.rows, inputs.require_teacher()
    # a teacher with other tokens reads what fits into its context
    teachers = {} if view.own_tokens else inputs.views or {"": view}
    read_by = [
        (f"teacher {name}".strip(), part.context, part.rows(inputs.of(name, data.split)))
        for name, part in teachers.items()
    ]
    for who, context, read in [("student", context_length(student.config), rows), *read_by]:
        longest = max((row.prompt_length for row in read), default=0)
        if context is not None and longest + own.longest > context:
            raise ConfigError(
                "The longest prompt and the student's longest answer do not fit into the context of both models.",
                facts=[
                    f"{who}: longest prompt {longest} tokens",
                    f"max_new_tokens {own.longest}",
                    f"context {context}",
                ],
                fix="lower answers.max_new_tokens or data.max_tokens",
            )


def _other_sampler(
    own: StudentAnswersConfig,
    settings: TrainingConfig,
    student: PreTrainedModel,
    stop_ids: tuple[int, ...],
    width: int,
    dropout: bool,
) -> Sampler | None:
    """Return who writes the answers in place of the loop of this process; a server is first asked at step 1.

    Raises:
        ConfigError: its answers could not be checked, or it cannot write this student's.
    """
    if own.sampler == "local":
        return None
    processes, rows = world_size(), embedding_rows(student)
    batched = own.sampler == "continuous_batching"
    facts = {
        "it has adapters, and a server reads whole weights": is_adapted(student) and not batched,
        "it is trained with dropout, so its probabilities are not those of the sampler": dropout,
        f"{processes} processes train it, and such a sampler is for one": processes > 1,
        f"it has {rows} ids, and may write the first {width}": batched and rows != width,
        "training.precision is bfloat16, which continuous batching does not take over": batched
        and settings.precision == "bfloat16",
    }
    if any(facts.values()):
        raise ConfigError(
            "This student's answers can be written by this process alone.",
            where="answers.sampler",
            facts=[fact for fact, found in facts.items() if found],
            fix="use sampler: local",
        )
    temperature = own.sampling.temperature
    if isinstance(own.sampler, str):
        return ContinuousBatching(stop_ids, rows, temperature == 0)
    return ServedSampler(own.sampler, stop_ids, width, rows, temperature)
