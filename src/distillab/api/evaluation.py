"""Evaluate the held-out rows of `dl.Trainer`: the objective, and the figures of a run's learning curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from distillab.api.given import Rows, rows_of
from distillab.data.encoding import EncodedSplit
from distillab.data.row_examples import examples_of
from distillab.errors import DataError
from distillab.evaluation.likelihood import score_rows
from distillab.evaluation.summary import summarise
from distillab.objectives.term import Objective, RemembersSteps
from distillab.processes import Processes
from distillab.runs.inputs import RunInputs
from distillab.runs.training_data import TrainingData, training_data

if TYPE_CHECKING:
    from distillab.api.trainer import Trainer


class EvalRows(Dataset[Any]):
    """Held-out rows, in the tokenisations that the terms read.

    Args:
        split: the rows that fit whole.
        data: the same as the trainer takes them.
        scored_bytes: UTF-8 bytes of their text that is scored.
    """

    def __init__(self, split: EncodedSplit, data: TrainingData, scored_bytes: int) -> None:
        self.split, self.collator, self.scored_bytes = split, data.collator, scored_bytes
        self._rows = data.rows

    def __len__(self) -> int:
        return len(cast(Any, self._rows))

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def eval_rows(inputs: RunInputs, data: Rows, *, name: str) -> EvalRows:
    """Encode held-out rows; those that do not fit whole are left out.

    Raises:
        DataError: unreadable rows, rows of another kind than the training rows, or none that fits.
    """
    encoder, settings = inputs.student.encoder, inputs.recipe.data
    rows, source = rows_of(data, name=name)
    read = examples_of(rows, columns=None, prompt_share=settings.prompt_share)
    if read.shape.kind != inputs.splits.shape.kind:
        raise DataError(
            "Training and held-out rows are of different kinds.",
            where=name,
            facts=[f"train_dataset: {inputs.splits.shape}", f"{name}: {read.shape}"],
            fix="give both with the same columns",
        )
    split = encoder.encode_all(read.examples, source=source)
    whole = [place for place, row in enumerate(split.rows) if not row.truncated]
    if not whole:
        raise DataError(
            "No held-out row fits whole.",
            where=name,
            facts=[f"{len(read.examples)} rows", f"max_tokens: {settings.max_tokens}"],
            fix="raise max_tokens, or give shorter rows",
        )
    split = EncodedSplit([split.rows[n] for n in whole], [split.examples[n] for n in whole], split.counts)
    scored = sum(encoder.scored_bytes(example) for example in split.examples)
    return EvalRows(split, training_data(inputs, split), scored)


@torch.no_grad()
def eval_values(trainer: Trainer, rows: EvalRows, batches: DataLoader[Any]) -> dict[str, float]:
    """Return `loss` and each term by its name, at the weights of the step, then the figures of the learning curve.

    A term that keeps spans of earlier steps (contrastive) depends on the step, and is left out of both.
    """
    model, reader = trainer.accelerator.unwrap_model(trainer.model), trainer.inputs.student
    objective = Objective(tuple(item for item in trainer.objective.terms if not isinstance(item.term, RemembersSteps)))
    was_training = model.training
    model.eval()
    means = {}
    if objective.terms:
        totals = trainer.over_batches(objective, model, batches)
        means = {name: total / max(1, count) for name, (total, count) in totals.items()}
    weights = trainer.weighting.weights(max(1, trainer.state.global_step))
    values = {"loss": sum(weights[name] * mean for name, mean in means.items()), **means} if means else {}
    scores = score_rows(
        model,
        rows.split.rows,
        collator=reader.collator(),
        batch_size=trainer.args.eval_batch_size,
        stop_ids=reader.encoder.stop_ids,
        processes=Processes.current(),
    )
    model.train(was_training)
    figures = summarise(scores, scored_bytes=rows.scored_bytes)
    return values | {metric.name: metric.value for metric in figures.metrics if metric.value is not None}
