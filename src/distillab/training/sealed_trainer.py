"""transformers.Trainer with the checkpoints of a run: sealed, and also made by the clock and when a signal ends it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from distillab.files import require_space, write_json
from distillab.models.batch import TokenBatch
from distillab.models.sharded import is_sharded
from distillab.models.structure import is_adapted
from distillab.processes import Processes
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
from distillab.training.pauses import Pauses
from distillab.training.training_state import read_optimizer, read_weights, write_state


class SealedTrainer(Trainer):
    """Base of `DistillationTrainer`: what it saves, and when. It prints nothing.

    Args:
        model, args, rows, collator, checkpoint_minutes, run, measurements, on_sealed: see `DistillationTrainer`.
        checkpoint_steps: a checkpoint is made only after a step that is a multiple of it, or the last.
        eval_rows, processing_class, callbacks, optimizers: as of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Dataset[Any],
        collator: Callable[[Sequence[Any]], TokenBatch],
        checkpoint_minutes: float,
        checkpoint_steps: int,
        run: str,
        measurements: Callable[[], Prefix] | None,
        on_sealed: Callable[[Path], None] | None,
        eval_rows: Any,
        processing_class: PreTrainedTokenizerBase | None,
        callbacks: list[TrainerCallback] | None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None],
    ) -> None:
        own_cache = getattr(model.config, "use_cache", None)
        self._sharded = is_sharded(model)
        # transformers refuses checkpoints of a divided model, which `training_state` can write
        weights_alone, args.save_only_model = args.save_only_model, args.save_only_model or self._sharded
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
        args.save_only_model = weights_alone
        # transformers disables the cache in the config, which is saved with the student; `model_inputs` disables it
        # for every forward pass
        if own_cache is None:
            vars(model.config).pop("use_cache", None)
        else:
            model.config.use_cache = own_cache
        self._processes = Processes(args.process_index, args.world_size)
        self._run, self._measurements, self._on_sealed = run, measurements, on_sealed
        self._writing: Path | None = None
        first = args.process_index == 0
        self.add_callback(
            Pauses(minutes=checkpoint_minutes, every=checkpoint_steps, over_processes=self._flags, first=first)
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    @abstractmethod
    def _state_files(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the files of transformers' Trainer: file name -> content."""

    @abstractmethod
    def _restore(self, folder: Path) -> None:
        """Take over the state of a checkpoint."""

    def _write_state(self, folder: Path) -> None:
        """Write the state files into a checkpoint."""
        for name, content in self._state_files().items():
            write_json(folder / name, content)

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
            self._write_state(checkpoint_folder(writing_folder(checkpoints), step))
            measured = self._measurements() if self._measurements is not None else None
            seal(checkpoints, step, run=self._run, measurements=measured)
            if self._on_sealed is not None:
                self._on_sealed(checkpoint_folder(checkpoints, step))
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or super()._get_output_dir(trial))

    @property
    def _keeps_state(self) -> bool:
        """Whether checkpoints are written and read by `training_state`, in place of transformers or DeepSpeed."""
        return not self.is_deepspeed_enabled

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student as transformers does; in a checkpoint its weights are part of the state."""
        if not (_internal_call and self._keeps_state):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        student = cast(torch.nn.Module, self.model)
        if is_adapted(student) and self.args.should_save:  # peft saves the adapters alone
            projectors.write(student, Path(output_dir or str(self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._keeps_state:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        first = self.args.process_index == 0
        write_state(Path(output_dir), *self._state_of(), first=first)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        student = cast(torch.nn.Module, self.model)
        if self._keeps_state:
            read_weights(Path(resume_from_checkpoint), student)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if is_adapted(student):
                projectors.read(student, Path(resume_from_checkpoint))
        self._restore(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._keeps_state:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        read_optimizer(Path(checkpoint), *self._state_of())

    def _state_of(self) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = cast(Any, self.optimizer)
        wrapped = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        return cast(torch.nn.Module, self.model), wrapped, cast(Any, self.lr_scheduler)

    def _flags(self, flags: tuple[int, int]) -> tuple[int, int]:
        one, other = self._processes.sum(torch.tensor(flags, device=self.args.device)).tolist()
        return one, other
