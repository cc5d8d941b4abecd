"""`dl.Trainer`: transformers' Trainer, whose loss is a sum of distillab's terms.

It is the trainer of a run (`training.trainer`), with the user's `TrainingArguments` in place of the recipe's training
settings, and with transformers' own logs and checkpoints in place of the run's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput, HubStrategy, IntervalStrategy, TrainOutput

from distillab.api.evaluation import EvalRows, eval_rows, eval_values
from distillab.api.given import Model, Rows
from distillab.api.recipe import RecipeBuilder, quiet, terms_of
from distillab.config.run import RunRecipe
from distillab.config.term_base import BaseTermConfig
from distillab.errors import ConfigError, TeacherError
from distillab.objectives.term import Objective
from distillab.runs.inputs import load_inputs
from distillab.runs.stored_signals import stored_signals
from distillab.runs.teacher import RunTeacher
from distillab.runs.training import objective_for
from distillab.runs.training_data import training_data
from distillab.teachers.served.journal import file_of
from distillab.training.checkpoints import checkpoint_folder
from distillab.training.pauses import Pauses
from distillab.training.projectors import attach, detach
from distillab.training.trainer import DistillationTrainer

# Allowed values of arguments that otherwise have no effect on a loss of terms, or silently change its batches.
_ALLOWED = {
    "label_smoothing_factor": (0.0,),
    "auto_find_batch_size": (False,),
    "use_liger_kernel": (False,),
    "train_sampling_strategy": ("random", "group_by_length"),
}


class Trainer(DistillationTrainer):
    """A `transformers.Trainer` with a sum of terms as loss; callbacks, report_to, resuming and the hub work as usual.

    The log of a step has `loss`, the weighted sum, and the mean of each term by its name. `evaluate()` gives
    `eval_loss`, the same sum on the held-out rows, `eval_` with each term's name, `eval_nats_per_token` and the other
    figures of a run's learning curve. Every optimizer step reads exactly its batch size, in the order of a run with the
    same seed.

    Args:
        model: the student, a transformers or PEFT model. It is trained in place.
        processing_class: the student's tokenizer.
        train_dataset, eval_dataset: a path, `datasets.Dataset`, `pandas.DataFrame` or list of dicts of text, with
            columns as in docs/data.md; eval_dataset can be a dict of these. Held-out rows that do not fit are left out.
        args: `max_steps`, else `num_train_epochs`, decides the length.
        teacher: a folder or hub id, a model, (model, tokenizer), or the location of a cache; None: no term needs one.
            A model is put in eval mode, without gradients.
        terms: default: those of the method `logits` for a pretrained student (cross-entropy, and forward KL that fades
            out).
        callbacks, optimizers: as of `transformers.Trainer`.
        template: of the rows' text: auto, chat, plain, …; see docs/data.md.
        max_tokens: longest sequence; answers are cut there. TRL: max_length.
    Raises:
        ConfigError: an argument that would have no effect, or a term that does not fit the models.
        TokenizerMismatch: a term compares ids that do not mean the same; the message has the ways out.
        DataError: rows without usable columns.
        TeacherError: a term needs a teacher.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Rows,
        args: TrainingArguments,
        teacher: Model | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        terms: Sequence[BaseTermConfig] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        template: str = "auto",
        max_tokens: int = 512,
    ) -> None:
        _require_usable(args)
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        builder = RecipeBuilder()
        builder.student((model, processing_class))
        builder.teacher(teacher)
        builder.train(train_dataset)
        arguments = {
            # a recipe has held-out rows; those of the trainer are eval_dataset, encoded below
            "data.held_out.path": builder.path("data.train.path"),
            "data.held_out.limit": 1,
            "data.template": template,
            "data.max_tokens": max_tokens,
            "evaluation.generate_rows": 0,
            "method": "logits" if terms is None else "sft",
            "terms": terms_of(terms),
            "training.batch_size": batch_size,
            "training.device": "cpu" if args.device.type == "cpu" else "auto",
            "seed": args.seed,
        }
        _require_teacher(teacher, terms)
        recipe = builder.build(RunRecipe, arguments, where="dl.Trainer")
        with builder.held(), quiet():
            inputs = load_inputs(recipe)
            inputs.admit()
            file = file_of(args.process_index, args.world_size)
            source = RunTeacher(inputs, stored_signals(inputs), file=file).for_terms(inputs.train)
        self.inputs = inputs
        data = training_data(inputs, inputs.train)
        objective = objective_for(inputs, cast(Any, model), source, data.transport)
        _require_pushable(args, objective)
        passes = args.num_train_epochs * len(data.lengths) / batch_size
        own = copy.copy(args)
        own.max_steps = args.max_steps if args.max_steps > 0 else math.ceil(passes)
        own.remove_unused_columns = False
        self._since_log: dict[str, list[float]] = {}
        super().__init__(
            model=cast(Any, model),
            args=own,
            rows=data.rows,
            collator=data.collator,
            objective=objective,
            teacher=source,
            row_names=data.row_names,
            batch_size=batch_size,
            on_step=lambda report: None,
            lengths=data.lengths if args.train_sampling_strategy == "group_by_length" else None,
            eval_rows=self._encoded(eval_dataset, "eval_dataset"),
            processing_class=processing_class,
            callbacks=[_Passes(batch_size, len(data.lengths)), *(callbacks or [])],
            optimizers=optimizers,
        )
        self.remove_callback(Pauses)
        progress = PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK
        self.remove_callback(progress)
        self.add_callback(progress)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, as transformers does. Projectors are in the student meanwhile, and are removed at the end."""
        attach(self.objective, cast(torch.nn.Module, self.model))
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            folder = Path(str(self.args.output_dir)) if self.args.should_save else None
            detach(cast(torch.nn.Module, self.model), folder=folder)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run one microbatch; after the last of a step, add up its terms for the next log."""
        loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.accelerator.sync_gradients:
            for name, (total, count) in self.step_terms().items():
                done = self._since_log.setdefault(name, [0.0, 0])
                done[0] += total
                done[1] += count
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, with the mean of each term since the last log."""
        if "grad_norm" in logs:
            logs = logs | {name: total / max(1, count) for name, (total, count) in self._since_log.items()}
            self._since_log = {}
        transformers.Trainer.log(self, logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return batches of the held-out rows; `eval_dataset`: other rows, or the name of some."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            chosen = cast(Any, self.eval_dataset)[chosen]
        rows = chosen if isinstance(chosen, EvalRows) else self._encoded(chosen, "eval_dataset")
        if not isinstance(rows, EvalRows):
            raise ConfigError("There are no held-out rows.", fix="give eval_dataset")
        return DataLoader(rows, batch_size=self.args.eval_batch_size, collate_fn=cast(Any, rows.collator))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Refuse: whole logits are never made, so there is nothing to predict with.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("dl.Trainer gives no predictions.", fix="call evaluate(rows), or generate with trainer.model")

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the objective and the figures of the learning curve on held-out rows."""
        rows = cast(EvalRows, dataloader.dataset)
        values = eval_values(self, rows, dataloader)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        return EvalLoopOutput(predictions=cast(Any, None), label_ids=None, metrics=metrics, num_samples=len(rows))

    def _encoded(self, data: Any, name: str) -> Any:
        if data is None:
            return None
        if isinstance(data, Mapping):
            return {key: eval_rows(self.inputs, rows, name=f"{name}[{key}]") for key, rows in data.items()}
        return eval_rows(self.inputs, data, name=name)

    @property
    def _keeps_state(self) -> bool:
        # transformers' checkpoints can be loaded as models and pushed; of a divided model it makes none
        return self._sharded

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        transformers.Trainer._save_checkpoint(self, model, trial)
        if self.args.should_save:
            self._write_state(checkpoint_folder(Path(self._get_output_dir(trial)), self.state.global_step))


class _Passes(TrainerCallback):
    """Count epochs as passes over the rows: the sampler gives all steps in one, so transformers sees one epoch.

    Args:
        batch_size: rows of a step.
        rows: of the training rows.
    """

    def __init__(self, batch_size: int, rows: int) -> None:
        self._batch_size, self._rows = batch_size, rows

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch, and run what is due at its end; transformers does so at the last step."""
        drawn = state.global_step * self._batch_size
        state.epoch = drawn / self._rows
        ended = drawn // self._rows > (drawn - self._batch_size) // self._rows
        if ended and state.global_step < state.max_steps:
            control.should_log |= args.logging_strategy == IntervalStrategy.EPOCH
            control.should_save |= args.save_strategy == IntervalStrategy.EPOCH
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch


def _require_usable(args: TrainingArguments) -> None:
    for name, allowed in _ALLOWED.items():
        if (value := getattr(args, name)) not in allowed:
            raise ConfigError(
                f"TrainingArguments.{name} has no place in a loss of terms.",
                facts=[f"given: {value}"],
                fix="set it to " + " or ".join(map(repr, allowed)),
            )
    if args.n_gpu > 1:
        raise ConfigError(
            "One process sees several GPUs, and transformers would split batches among them.",
            facts=[f"visible GPUs: {args.n_gpu}"],
            fix="start with torchrun --nproc_per_node N, or set CUDA_VISIBLE_DEVICES to one",
        )


def _require_teacher(teacher: object, terms: Sequence[BaseTermConfig] | None) -> None:
    needing = (
        ["the default terms"]
        if terms is None
        else [type(term).__name__.removesuffix("Config") for term in terms if term.access != "none"]
    )
    if teacher is None and needing:
        raise TeacherError(
            f"There is no teacher, and {needing[0]} needs one.", fix="give teacher=…, or terms without one"
        )


def _require_pushable(args: TrainingArguments, objective: Objective) -> None:
    """Refuse to push a checkpoint: it holds the projectors too, and could not be loaded as a model."""
    projecting = [name for name, term in objective.activation_terms.items() if term.projector is not None]
    if args.push_to_hub and args.hub_strategy != HubStrategy.END and projecting:
        raise ConfigError(
            "Checkpoints hold projectors beside the student, so they cannot be pushed as models.",
            facts=[f"{projecting[0]} has a projector"],
            fix='set hub_strategy="end"',
        )
