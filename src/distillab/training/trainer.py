"""The trainer: transformers.Trainer with the objective, normaliser and row order of distillab.

Every term gives a sum over a microbatch; the trainer divides by the term's count over
all microbatches of the optimizer step and all processes. So batch split, padding side and gradient
accumulation cannot change the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from distillab.files import read_json, require_space, write_json
from distillab.models.aligned_positions import teacher_batch
from distillab.models.batch import TokenBatch
from distillab.models.heads import require_separable_head
from distillab.models.scoring import scored_count
from distillab.models.structure import is_adapted
from distillab.objectives.drawn import Drawn
from distillab.objectives.step import measure
from distillab.objectives.term import Objective
from distillab.teachers.protocol import SignalSource, tokens_read
from distillab.teachers.signals import TeacherSignal
from distillab.training import projectors
from distillab.training.checkpoints import (
    Prefix,
    begin,
    checkpoint_bytes,
    checkpoint_folder,
    require_finite_weights,
    seal,
    writing_folder,
)
from distillab.training.numerics import nonfinite_loss, require_finite_gradients
from distillab.training.pauses import Pauses
from distillab.training.projector_init import initialise
from distillab.training.projectors import attach, give_own_learning_rates
from distillab.training.rollout import Rollout
from distillab.training.sampling import StepSampler
from distillab.training.spending import Spending, Used
from distillab.training.weighting import Weighting, gradient_at, gradient_cosines, shared_parameters

StepCounts = dict[str, int]
WEIGHTS_FILE = "weights.json"  # balanced weights, beside a checkpoint's other files
SPENT_FILE = "spent.json"  # of a budget that is no number of steps
ROLLOUT_FILE = "rollout.json"  # the guard against repetition, of a student that writes answers itself


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


class DistillationTrainer(Trainer):
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
        lengths: Sequence[int] | None = None,
        gradient_shares_every: int | None = None,
        checkpoint_minutes: float = math.inf,
        run: str = "",
        measurements: Callable[[], Prefix] | None = None,
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
        own_cache = getattr(model.config, "use_cache", None)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            data_collator=cast(Any, collator),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # transformers disables the cache in the config, which is saved with the student; `model_inputs` disables it
        # for every forward pass
        if own_cache is None:
            vars(model.config).pop("use_cache", None)
        else:
            model.config.use_cache = own_cache
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
        self._sums: dict[str, Tensor] = {}
        self._counts: StepCounts = {}
        self._supervised_tokens = self._step_tokens = self._teacher_tokens = 0
        self._weights: dict[str, float] = {}
        self._shares: dict[str, float] | None = None
        self._run, self._measurements = run, measurements
        self._rollout = rollout
        self._figures: dict[str, float] | None = None
        self._writing: Path | None = None
        first = args.process_index == 0
        self._reuse = 1 if rollout is None else rollout.settings.reuse
        self.add_callback(
            Pauses(minutes=checkpoint_minutes, every=self._reuse, over_processes=self._flags, first=first)
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if teacher is not None and objective.state_terms:
            size = min(batch_size, len(cast(Any, rows)))
            batch = collator([rows[index] for index in range(size)])
            initialise(objective, model, teacher, batch, device=args.device)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW; a projector with a learning rate gets a separate parameter group."""
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
        found = cast(LambdaLR, super().create_scheduler(spending.planned, optimizer))

        def by_share(factor: Callable[[float], float]) -> Callable[[int], float]:
            return lambda step: factor(spending.steps)

        found.lr_lambdas = [by_share(cast(Any, factor)) for factor in found.lr_lambdas]
        return found

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        rows = cast(Any, train_dataset if train_dataset is not None else self.train_dataset)
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
                    process=(self.args.process_index, self.args.world_size),
                    device=device,
                    over_processes=self._over_processes,
                    joined=self._joined,
                )
        names = self.objective.names
        local = [sum(weighted.term.count(batch) for batch in batches) for weighted in self.objective.terms]
        supervised = sum(scored_count(batch) for batch in batches)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        teacher_tokens = sum(tokens_read(self._teacher[0], teacher_batch(batch)) for batch in batches)
        local += [supervised, tokens, teacher_tokens]
        totals = self._over_processes(torch.tensor(local, dtype=torch.long, device=device))
        *counts, self._supervised_tokens, self._step_tokens, self._teacher_tokens = totals.tolist()
        self._counts = dict(zip(names, counts, strict=True))
        self._sums = {name: torch.zeros((), device=device) for name in names}
        self._shares = self._cosines = None
        if self.weighting.due(step):
            # with draws of its own: a resumed step measures before the state of the generator is restored
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(self.args.seed + step)
                gradients = self._term_gradients(batches)
            self._cosines = gradient_cosines(gradients)
            self._shares = self.weighting.balance(gradients, step=position)
        self._weights = self.weighting.weights(position)
        self._spend()
        return batches, self._counts

    def _spend(self) -> None:
        """Count what the step uses of the budget; the step that reaches it is the last."""
        if self._spending is None:
            return
        generated, written = (0, 0) if self._rollout is None else self._rollout.log.generated
        teacher_tokens = self._teacher_tokens if self._teacher[0] is not None and self.objective.request else 0
        used = Used(self._step_tokens, self._supervised_tokens, teacher_tokens, generated, written)
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
        counts: StepCounts | None = num_items_in_batch  # from get_batch_samples
        if counts is None:
            raise ValueError("compute_loss needs the counts of the step; evaluate with distillab.evaluation instead")
        batch = cast(TokenBatch, inputs)
        measured = measure(
            model,
            batch,
            self.objective,
            self._signal(batch),
            # a step can have no scored token: its sum is zero, and so is its loss
            factors={name: self._weights[name] / max(1, count) for name, count in counts.items()},
            device=self.args.device,
            drawn=self._drawn(batch),
        )
        problem = nonfinite_loss(measured, batch, step=self.state.global_step + 1, row_names=self.row_names)
        if problem is not None:
            raise problem
        for name, total in measured.sums.items():
            self._sums[name] += total
        if self._rollout is not None:
            self._rollout.observe(batch, measured)
        return torch.stack(list(measured.losses.values())).sum() * self.args.world_size

    def _term_gradients(self, batches: Sequence[TokenBatch]) -> dict[str, Tensor]:
        """Return the gradient of each term's unweighted loss over a step, at the parameters that all terms reach; flat.

        A separate pass, so that the weights of the step are known before its first microbatch, and do not depend on how
        the step is split.
        """
        student = self.accelerator.unwrap_model(self.model_wrapped)
        student.train()
        parameters = shared_parameters(self.objective, student)
        total: dict[str, Tensor] = {}
        for batch in batches:
            with self.compute_loss_context_manager():
                measured = measure(
                    student,
                    batch,
                    self.objective,
                    self._signal(batch),
                    factors={name: 1.0 / max(1, count) for name, count in self._counts.items()},
                    device=self.args.device,
                    per_term_backward=True,
                    drawn=self._drawn(batch),
                )
            for name, loss in measured.losses.items():
                part = gradient_at(parameters, loss)
                total[name] = total[name] + part if name in total else part
        return {name: self._over_processes(part) for name, part in total.items()}

    def _drawn(self, batch: TokenBatch) -> Drawn | None:
        return None if self._rollout is None else self._rollout.drawn(batch)

    def _signal(self, batch: TokenBatch) -> TeacherSignal:
        teacher, request = self._teacher[0], self.objective.request
        if teacher is None or not request:
            return TeacherSignal()
        if self._rollout is None:
            return teacher.signal(teacher_batch(batch), request)
        since = self._time()
        signal = teacher.signal(teacher_batch(batch), request)
        self._rollout.log.add_teacher(self._time() - since)
        return signal

    def _time(self) -> float:
        """Return the time when all that the device was given is done."""
        if self.args.device.type == "cuda":
            torch.cuda.synchronize(self.args.device)
        return time.perf_counter()

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run one microbatch; after the last of a step, check its gradients before anything uses them."""
        loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.accelerator.sync_gradients:
            step = self.state.global_step + 1
            require_finite_gradients(model, step=step)
            if self._rollout is not None:
                self._figures = self._rollout.finished(step, self._over_processes, self.args.device)
            for term in self.objective.remembering_terms:
                term.end_step(self._joined)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Turn the Trainer's log into a `StepReport`; called once a step (logging_steps is 1)."""
        if "grad_norm" not in logs:
            return  # the Trainer's closing summary
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
                supervised_tokens=self._supervised_tokens,
                tokens=self._step_tokens,
                teacher_tokens=self._teacher_tokens,
                rollout=self._figures,
                spent=None if self._spending is None else self._spending.used,
                last=self.state.global_step >= self.state.max_steps,
            )
        )

    def step_terms(self) -> dict[str, tuple[float, int]]:
        """Return term -> (sum in its unit, count) of the last optimizer step, over all processes."""
        names = list(self._sums)
        sums = self._over_processes(torch.stack([self._sums[name] for name in names]))
        return {name: (float(value), self._counts[name]) for name, value in zip(names, sums, strict=True)}

    @torch.no_grad()
    def over_batches(
        self, objective: Objective, model: torch.nn.Module, batches: Iterable[TokenBatch]
    ) -> dict[str, tuple[float, int]]:
        """Return term -> (sum in its unit, count) over batches that every process is given; each does its share."""
        names, device = objective.names, self.args.device
        sums, counts = torch.zeros(len(names), device=device), torch.zeros(len(names), dtype=torch.long, device=device)
        for number, batch in enumerate(batches):
            if number % self.args.world_size == self.args.process_index:
                with self.compute_loss_context_manager():
                    measured = measure(
                        model, batch, objective, self._signal(batch), factors=dict.fromkeys(names, 1.0), device=device
                    )
                sums += torch.stack([measured.sums[name].to(device) for name in names])
                counts += torch.tensor([item.term.count(batch) for item in objective.terms], device=device)
        totals = zip(self._over_processes(sums).tolist(), self._over_processes(counts).tolist(), strict=True)
        return dict(zip(names, totals, strict=True))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        checkpoints, step = Path(str(self.args.output_dir)), self.state.global_step
        require_finite_weights(model, step=step)
        # torch reports a full disk by an unclear error, and leaves half a checkpoint
        require_space(checkpoints, checkpoint_bytes(model), what="the next checkpoint")
        if self.args.should_save:
            begin(checkpoints)
        self.accelerator.wait_for_everyone()
        self._writing = writing_folder(checkpoints)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self.weighting.balanced:
                write_json(checkpoint_folder(writing_folder(checkpoints), step) / WEIGHTS_FILE, self.weighting.balanced)
            if self._rollout is not None:
                write_json(checkpoint_folder(writing_folder(checkpoints), step) / ROLLOUT_FILE, self._rollout.state())
            if self._spending is not None:
                write_json(checkpoint_folder(writing_folder(checkpoints), step) / SPENT_FILE, self._spending.spent)
            measured = self._measurements() if self._measurements is not None else None
            seal(checkpoints, step, run=self._run, measurements=measured)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or super()._get_output_dir(trial))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        student = cast(torch.nn.Module, self.model)
        if is_adapted(student):  # peft saves the adapters alone
            projectors.write(student, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        student = cast(torch.nn.Module, self.model)
        if is_adapted(student):
            projectors.read(student, Path(resume_from_checkpoint))
        path = Path(resume_from_checkpoint) / WEIGHTS_FILE
        if path.exists():
            self.weighting.balanced = read_json(path)
        if self._rollout is not None:
            self._rollout.restore(read_json(Path(resume_from_checkpoint) / ROLLOUT_FILE))

    def _flags(self, flags: tuple[int, int]) -> tuple[int, int]:
        one, other = self._over_processes(torch.tensor(flags, device=self.args.device)).tolist()
        return one, other

    def _over_processes(self, values: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return values
        gathered = cast(Tensor, self.accelerator.gather(values[None]))
        return gathered.sum(dim=0)

    def _joined(self, values: Tensor) -> Tensor:
        """Concatenate (n, …) of all processes, in the order of the processes; n may differ."""
        if self.args.world_size == 1:
            return values
        sizes = cast(Tensor, self.accelerator.gather(torch.tensor([values.shape[0]], device=values.device))).tolist()
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: values.shape[0]] = values
        gathered = cast(Tensor, self.accelerator.gather(padded))
        return torch.cat([part[:size] for part, size in zip(gathered.split(max(1, max(sizes))), sizes, strict=False)])
