"""The one trainer: transformers.Trainer with our objective, our normaliser and our row order.

The step's shape: every term gives a sum over a microbatch; the trainer divides by the term's count over
all microbatches of the optimizer step and all processes. So batch split, padding side and gradient
accumulation cannot change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from distillab.models.batch import TokenBatch
from distillab.models.scoring import scored_logits, scored_rows, scored_targets
from distillab.objectives.term import Objective, StudentScores
from distillab.places import require_space
from distillab.teachers.protocol import Teacher
from distillab.training.checkpoints import checkpoint_bytes
from distillab.training.numerics import nonfinite_loss, require_finite_gradients
from distillab.training.sampling import StepSampler

StepCounts = dict[str, Tensor]


@dataclass(frozen=True)
class StepReport:
    """Measurements of one optimizer step, over all processes.

    Attributes:
        step: number of the step, from 1.
        terms: term -> (sum in nats, count).
        loss: the weighted objective.
        grad_norm: before clipping.
        learning_rate: that the step used.
        tokens: tokens read, prompts included.
    """

    step: int
    terms: dict[str, tuple[float, int]]
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int


class DistillationTrainer(Trainer):
    """Trains one student on one objective.

    Args:
        model: the student, with every parameter that is to learn.
        args: transformers' arguments; made by `training_arguments`.
        rows: the training rows, as `collator` takes them.
        collator: rows -> TokenBatch.
        objective: the terms and their weights.
        teacher: gives the signal, where any term needs one.
        row_names: a name for each row, for messages.
        batch_size: sequences an optimizer step over all processes; decides how many rows are drawn.
        on_step: called after every optimizer step with its measurements (see `StepReport`).
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Dataset[Any],
        collator: Callable[[Sequence[Any]], TokenBatch],
        objective: Objective,
        teacher: Teacher | None,
        row_names: Sequence[str],
        batch_size: int,
        on_step: Callable[[StepReport], None],
    ) -> None:
        objective.require(teacher)
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=cast(Any, collator))
        # Our loss is divided by the count over the whole step; the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self.objective: Objective = objective
        self.row_names = row_names
        self._teacher = [teacher]  # in a list: never a submodule of anything
        self._batch_size = batch_size
        self._on_step = on_step
        self._sums: dict[str, Tensor] = {}
        self._counts: StepCounts = {}
        self._step_tokens = torch.zeros(2, dtype=torch.long)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        rows = cast(Any, train_dataset if train_dataset is not None else self.train_dataset)
        return StepSampler(rows=len(rows), draws=self.args.max_steps * self._batch_size, seed=self.args.seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The microbatches of one optimizer step, and each term's count over them and all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        names = [weighted.name for weighted in self.objective.terms]
        local = [sum(weighted.term.count(batch) for batch in batches) for weighted in self.objective.terms]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        totals = self._over_processes(torch.tensor([*local, tokens], dtype=torch.long, device=device))
        self._counts = dict(zip(names, totals[:-1], strict=True))
        self._step_tokens = totals[-1]
        self._sums = {name: torch.zeros((), device=device) for name in names}
        return batches, self._counts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Σ weight · sum / count, times the number of processes (which average their gradients)."""
        counts: StepCounts | None = num_items_in_batch  # what get_batch_samples gave
        if counts is None:
            raise ValueError("compute_loss needs the counts of the step; evaluate with distillab.evaluation instead")
        batch = cast(TokenBatch, inputs)
        teacher = self._teacher[0]
        signal = teacher.signal(batch) if teacher is not None and self.objective.needs_signal else None
        student = StudentScores(scored_logits(model, batch), scored_targets(batch))
        loss = torch.zeros((), device=student.logits_NV.device)
        for weighted in self.objective.terms:
            name = weighted.name
            values = weighted.term.per_position(student, signal)
            total = values.sum()
            if not bool(torch.isfinite(total)):
                raise nonfinite_loss(
                    name,
                    values.detach(),
                    step=self.state.global_step + 1,
                    rows_N=scored_rows(batch),
                    row_names=self.row_names,
                    student=student,
                    signal=signal,
                )
            self._sums[name] += total.detach()
            # a step may have no scored token at all: its sum is zero, and so is its loss
            loss = loss + weighted.weight * total / counts[name].clamp(min=1)
        return loss * self.args.world_size

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One microbatch; after the last of a step, its gradients are checked before anything uses them."""
        loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.accelerator.sync_gradients:
            require_finite_gradients(model, step=self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called once a step (logging_steps is 1): turns the Trainer's log into a `StepReport`."""
        if "grad_norm" not in logs:
            return  # the Trainer's closing summary
        names = list(self._sums)
        sums = self._over_processes(torch.stack([self._sums[name] for name in names]))
        self._on_step(
            StepReport(
                step=self.state.global_step,
                terms={name: (float(value), int(self._counts[name])) for name, value in zip(names, sums, strict=True)},
                loss=logs["loss"],
                grad_norm=logs["grad_norm"],
                learning_rate=logs["learning_rate"],
                tokens=int(self._step_tokens),
            )
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # torch reports a full disk by an error that does not say so, and leaves half a checkpoint
        require_space(Path(str(self.args.output_dir)), checkpoint_bytes(model), what="the next checkpoint")
        super()._save_checkpoint(model, trial)

    def _over_processes(self, values: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return values
        gathered = cast(Tensor, self.accelerator.gather(values[None]))
        return gathered.sum(dim=0)
