"""The trainer: transformers.Trainer with the objective, normaliser and row order of distillab.

Every term gives a sum over a microbatch; the trainer divides by the term's count over
all microbatches of the optimizer step and all processes. So batch split, padding side and gradient
accumulation cannot change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from distillab.data.streaming import RowStream
from distillab.files import read_json
from distillab.models.aligned_positions import teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.heads import require_separable_head
from distillab.models.sharded import keep_gathered, reshard
from distillab.models.structure import decoder_blocks
from distillab.objectives.step import Measured, measure
from distillab.objectives.term import Objective
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import TeacherSignal
from distillab.training.checkpoints import Prefix
from distillab.training.numerics import nonfinite_gradient, nonfinite_loss, require_finite_gradients
from distillab.training.projector_init import initialise
from distillab.training.projectors import attach, give_own_learning_rates
from distillab.training.rollout import Rollout
from distillab.training.sampling import StepSampler
from distillab.training.sealed_trainer import SealedTrainer
from distillab.training.spending import Spending, Used
from distillab.training.step_report import StepReport
from distillab.training.step_totals import StepTotals
from distillab.training.weighting import Weighting, gradient_cosines, term_gradients

WEIGHTS_FILE = "weights.json"  # balanced weights, beside a checkpoint's other files
SPENT_FILE = "spent.json"  # of a budget that is no number of steps
STREAM_FILE = "stream.json"  # how far the source of streamed rows was read
ROLLOUT_FILE = "rollout.json"  # the guard against repetition, of a student that writes answers itself


class DistillationTrainer(SealedTrainer):
    """Trainer of one student on one objective.

    Args:
        model: the student, with every parameter that is trained.
        args: transformers' arguments; made by `training_arguments`.
        rows: the training rows, as `collator` takes them.
        collator: rows -> TokenBatch.
        objective: the terms and their weights.
        teacher: the signal source, if any term needs one.
        row_names: a name for each row, for messages.
        batch_size: sequences an optimizer step over all processes; decides how many rows are drawn.
        on_step: called after every optimizer step with its measurements (see `StepReport`).
        lengths: tokens of each row, to put rows of similar length into one step.
        gradient_shares_every: steps between two measurements of the terms' gradients; None: see `Weighting`.
        checkpoint_minutes: after which a checkpoint is saved, in addition to those of `args`.
        run: identity of the run, for the seal of its checkpoints.
        measurements: returns the measurements so far, synced to disk; None: they are not kept.
        on_sealed: called by the first process with the folder of each sealed checkpoint.
        rollout: lets the student answer a share of the rows of every step; None: every row has the answer it came with.
        spending: the budget, where it is no number of steps.
        eval_rows, processing_class, callbacks, optimizers: as of `transformers.Trainer`, for `dl.Trainer`.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Dataset[Any],
        collator: Callable[[Sequence[Any]], TokenBatch],
        objective: Objective,
        teacher: SignalSource | None,
        row_names: Sequence[str],
        batch_size: int,
        on_step: Callable[[StepReport], None],
        lengths: Sequence[int] | npt.NDArray[np.int64] | None = None,
        gradient_shares_every: int | None = None,
        checkpoint_minutes: float = math.inf,
        run: str = "",
        measurements: Callable[[], Prefix] | None = None,
        on_sealed: Callable[[Path], None] | None = None,
        rollout: Rollout | None = None,
        spending: Spending | None = None,
        eval_rows: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        objective.require(teacher)
        self._spending, planned = spending, args.max_steps
        if spending is not None:
            planned, args.max_steps = spending.planned, spending.most_steps
        require_separable_head(model, role="student")
        attach(objective, model)
        if inside := objective.student_activations.inside:
            keep_gathered(decoder_blocks(model)[number - 1] for number in inside)
        self._reuse = 1 if rollout is None else rollout.settings.reuse
        super().__init__(
            model=model,
            args=args,
            rows=rows,
            collator=collator,
            checkpoint_minutes=checkpoint_minutes,
            checkpoint_steps=self._reuse,
            run=run,
            measurements=measurements,
            on_sealed=on_sealed,
            eval_rows=eval_rows,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # Our loss is divided by the count over the whole step; the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self.objective: Objective = objective
        self.row_names = row_names
        self._teacher = [teacher]  # in a list: never a submodule of anything
        self.weighting = Weighting(objective, steps=planned, every=gradient_shares_every)
        self._batch_size = batch_size
        self._lengths = lengths
        self._on_step = on_step
        self._totals: StepTotals  # of the step that runs
        self._weights: dict[str, float] = {}
        self._shares: dict[str, float] | None = None
        self._rollout = rollout
        self._figures: dict[str, float] | None = None
        if teacher is not None and objective.state_terms:
            size = min(batch_size, len(cast(Any, rows)))
            batch = collator([rows[index] for index in range(size)])
            initialise(objective, model, teacher, batch, device=args.device)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW; a projector with a learning rate gets a separate parameter group."""
        reshard(cast(torch.nn.Module, self.model))  # an optimizer changes the parts
        optimizer = super().create_optimizer(model)
        give_own_learning_rates(optimizer, self.objective, cast(torch.nn.Module, self.model))
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the schedule of the learning rate: over the planned steps, by the share of the budget that is used."""
        spending = self._spending
        if spending is None:
            return super().create_scheduler(num_training_steps, optimizer)
        return spending.follow(cast(LambdaLR, super().create_scheduler(spending.planned, optimizer)))

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        rows = cast(Any, train_dataset if train_dataset is not None else self.train_dataset)
        if isinstance(rows, RowStream):
            return SequentialSampler(rows)
        return StepSampler(
            rows=len(rows),
            draws=self.args.max_steps * self._batch_size,
            seed=self.args.seed,
            batch_size=self._batch_size,
            lengths=self._lengths,
            repeats=self._reuse,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the microbatches of one optimizer step, and each term's count over them and all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step + 1
        position = step if self._spending is None else min(self._spending.planned, 1 + self._spending.steps)
        if self._rollout is not None:
            with self.compute_loss_context_manager():
                batches = self._rollout.rewritten(
                    self.accelerator.unwrap_model(self.model_wrapped),
                    batches,
                    step=step,
                    position=position,
                    process=(self._processes.number, self._processes.count),
                    device=device,
                    over_processes=self._processes.sum,
                    joined=self._processes.joined,
                )
        self._totals = StepTotals.counted(batches, self.objective, self._teacher[0], self._processes, device)
        self._shares = self._cosines = None
        if self.weighting.due(step):
            # with draws of its own: a resumed step measures before the state of the generator is restored
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(self.args.seed + step)
                student = self.accelerator.unwrap_model(self.model_wrapped).train()
                losses = [partial(self._unweighted, student, batch) for batch in batches]
                parts = term_gradients(self.objective, student, losses)
                gradients = {name: self._processes.sum(part) for name, part in parts.items()}
            self._cosines = gradient_cosines(gradients)
            self._shares = self.weighting.balance(gradients, step=position)
        self._weights = self.weighting.weights(position)
        self._spend()
        return batches, self._totals.counts

    def _spend(self) -> None:
        """Count what the step uses of the budget; the step that reaches it is the last."""
        if self._spending is None:
            return
        generated, written = (0, 0) if self._rollout is None else self._rollout.log.generated
        totals = self._totals
        teacher_tokens = totals.teacher_tokens if self._teacher[0] is not None and self.objective.request else 0
        used = Used(totals.tokens, totals.supervised_tokens, teacher_tokens, generated, written)
        self._spending.spent += self._spending.of(used)
        if self._spending.ended:
            self.state.max_steps = self.state.global_step + 1

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Return Σ weight · sum / count, times the number of processes (which average their gradients)."""
        counts: dict[str, int] | None = num_items_in_batch  # from get_batch_samples
        if counts is None:
            raise ValueError("compute_loss needs the counts of the step; evaluate with distillab.evaluation instead")
        batch = cast(TokenBatch, inputs)
        # a step can have no scored token: its sum is zero, and so is its loss
        factors = {name: self._weights[name] / max(1, count) for name, count in counts.items()}
        measured = self._measured(model, batch, factors)
        problem = nonfinite_loss(measured, batch, step=self.state.global_step + 1, row_names=self.row_names)
        if problem is not None:
            raise problem
        self._totals.add(measured.sums)
        if self._rollout is not None:
            self._rollout.observe(batch, measured)
        return torch.stack(list(measured.losses.values())).sum() * self.args.world_size

    def _measured(
        self, student: torch.nn.Module, batch: TokenBatch, factors: dict[str, float], *, per_term_backward: bool = False
    ) -> Measured:
        return measure(
            student,
            batch,
            self.objective,
            self._signal(batch),
            factors=factors,
            device=self.args.device,
            per_term_backward=per_term_backward,
            drawn=None if self._rollout is None else self._rollout.drawn(batch),
        )

    def _unweighted(self, student: torch.nn.Module, batch: TokenBatch) -> dict[str, Tensor]:
        """Return each term's part of its loss of the step, with a graph of its own."""
        factors = {name: 1.0 / max(1, count) for name, count in self._totals.counts.items()}
        with self.compute_loss_context_manager():
            return self._measured(student, batch, factors, per_term_backward=True).losses

    def _signal(self, batch: TokenBatch) -> TeacherSignal:
        teacher, request = self._teacher[0], self.objective.request
        if teacher is None or not request:
            return TeacherSignal()
        with nullcontext() if self._rollout is None else self._rollout.log.teacher_time(self.args.device):
            return teacher.signal(teacher_batch(batch), request)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run one microbatch; after the last of a step, check its gradients before anything uses them."""
        loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.accelerator.sync_gradients:
            step = self.state.global_step + 1
            require_finite_gradients(model, step=step)
            if self._rollout is not None:
                self._figures = self._rollout.finished(step, self._processes.sum, self.args.device)
            for term in self.objective.remembering_terms:
                term.end_step(self._processes.joined)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Turn the Trainer's log into a `StepReport`; called once a step (logging_steps is 1)."""
        if "grad_norm" not in logs:
            return  # the Trainer's closing summary
        if self.is_deepspeed_enabled and not math.isfinite(logs["grad_norm"]):
            raise nonfinite_gradient(self.state.global_step)  # it holds the gradients until it has used them
        self._on_step(
            StepReport(
                step=self.state.global_step,
                terms=self.step_terms(),
                weights=dict(self._weights),
                gradient_shares=self._shares,
                gradient_cosines=self._cosines,
                loss=logs["loss"],
                grad_norm=logs["grad_norm"],
                learning_rate=logs["learning_rate"],
                supervised_tokens=self._totals.supervised_tokens,
                tokens=self._totals.tokens,
                teacher_tokens=self._totals.teacher_tokens,
                rollout=self._figures,
                spent=None if self._spending is None else self._spending.used,
                last=self.state.global_step >= self.state.max_steps,
            )
        )

    def step_terms(self) -> dict[str, tuple[float, int]]:
        """Return term -> (sum in its unit, count) of the last optimizer step, over all processes."""
        return self._totals.terms(self._processes)

    @torch.no_grad()
    def over_batches(
        self, objective: Objective, model: torch.nn.Module, batches: Iterable[TokenBatch]
    ) -> dict[str, tuple[float, int]]:
        """Return term -> (sum in its unit, count) over batches that every process is given; each does its share."""
        names, device = objective.names, self.args.device
        sums, counts = torch.zeros(len(names), device=device), torch.zeros(len(names), dtype=torch.long, device=device)
        each = list(batches)
        for number, is_own in self._processes.dealt(len(each)):
            batch = each[number]
            with self.compute_loss_context_manager():
                measured = measure(
                    model, batch, objective, self._signal(batch), factors=dict.fromkeys(names, 1.0), device=device
                )
            if is_own:
                sums += torch.stack([measured.sums[name].to(device) for name in names])
                counts += torch.tensor([item.term.count(batch) for item in objective.terms], device=device)
        totals = zip(self._processes.sum(sums).tolist(), self._processes.sum(counts).tolist(), strict=True)
        return dict(zip(names, totals, strict=True))

    def _state_files(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the files of transformers' Trainer: file name -> content."""
        found: dict[str, Any] = {}
        if self.weighting.balanced:
            found[WEIGHTS_FILE] = self.weighting.balanced
        if self._rollout is not None:
            found[ROLLOUT_FILE] = self._rollout.state()
        if self._spending is not None:
            found[SPENT_FILE] = self._spending.spent
        if isinstance(self.train_dataset, RowStream):
            found[STREAM_FILE] = self.train_dataset.state(self.state.global_step * self._batch_size)
        return found

    def _restore(self, folder: Path) -> None:
        """Take over the state of a checkpoint; what was spent is known before (`Spending.resume`)."""
        path = folder / WEIGHTS_FILE
        if path.exists():
            self.weighting.balanced = read_json(path)
        if isinstance(self.train_dataset, RowStream):
            self.train_dataset.restore(read_json(folder / STREAM_FILE))
        if self._rollout is not None:
            self._rollout.restore(read_json(folder / ROLLOUT_FILE))
