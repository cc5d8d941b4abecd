"""A few optimizer steps with the trainer of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from distillab.config.training import TrainingConfig
from distillab.preflight.setup import Setup
from distillab.runs.student_answers import rollout_for
from distillab.runs.training import trainer_for
from distillab.runs.training_data import TrainingData
from distillab.training.projectors import detach
from distillab.training.step_report import StepReport

_NEVER_CLIPPED = 1e30


@dataclass(frozen=True, eq=False)
class Stepped:
    """What the steps gave.

    Attributes:
        reports: of every step.
        gradients: name -> gradient of the first step before clipping, float32 on the CPU; of the student's parameters
            that have one. Empty where they were not requested.
        learning: names of all parameters of the student that learn.
        seconds: of every step, with its data and its teacher.
        fitted: names of the terms that were fitted to the rows before the first step (see
            `training/projector_init.py`): on a few rows their first value is far too good.
    """

    reports: tuple[StepReport, ...]
    gradients: dict[str, Tensor]
    learning: tuple[str, ...]
    seconds: tuple[float, ...]
    fitted: frozenset[str] = frozenset()

    def loss(self, step: int, *, without: frozenset[str] = frozenset()) -> float:
        """Return the loss of the terms' means at a step (from 0; negative from the end), with the first step's weights.

        Args:
            without: names of terms that are left out.
        """
        weights, terms = self.reports[0].weights, self.reports[step].terms
        return sum(
            weights[name] * total / max(1, count) for name, (total, count) in terms.items() if name not in without
        )


def training_of(setup: Setup, *, steps: int, microbatch: int | None = None, clipped: bool = True) -> TrainingConfig:
    """Return the recipe's training settings for some steps on the few rows, all of them in every step.

    The learning rate is the recipe's, and constant after a warm-up of a quarter of the steps where the recipe has one.

    Args:
        microbatch: rows of a forward pass; None: all.
        clipped: whether gradients are clipped.
    """
    own, rows = setup.recipe.training, len(setup.data.lengths)
    changes: dict[str, Any] = {
        "steps": steps,
        "batch_size": rows,
        "microbatch_size": microbatch or rows,
        "schedule": "constant",
        "warmup_steps": min(own.warmup_steps, steps // 4),
        # measured at the first step alone, where balanced weights are set
        "gradient_shares_every": 0 if own.gradient_shares_every == 0 else steps + 1,
    }
    if not clipped:
        changes["max_grad_norm"] = _NEVER_CLIPPED
    return own.model_copy(update=changes)


def step(
    setup: Setup,
    student: PreTrainedModel,
    training: TrainingConfig,
    *,
    data: TrainingData | None = None,
    gradients: bool = False,
) -> Stepped:
    """Train `student` in place for some steps.

    Args:
        training: the settings of these steps.
        data: other rows than the few.
        gradients: keep those of the first step.
    Raises:
        NumericsError: a loss or a gradient is not finite.
        ConfigError: a term does not fit the models.
    """
    alone = training.model_copy(update={"deepspeed": None})  # in this process
    inputs = setup.inputs.with_recipe(setup.recipe.model_copy(update={"training": alone}))
    reports: list[StepReport] = []
    objective = setup.objective(student)
    trainer = trainer_for(
        inputs,
        student,
        setup.teacher,
        data or setup.data,
        objective=objective,
        checkpoints=setup.scratch / "steps",
        on_step=reports.append,
        rollout=rollout_for(inputs, student, data or setup.data),
    )
    trainer.args.save_strategy = SaveStrategy.NO
    watch = _Watch(student, gradients)
    trainer.add_callback(watch)
    trainer.train()
    detach(student, folder=None)
    learning = tuple(name for name, p in student.named_parameters() if p.requires_grad)
    fitted = frozenset(name for name, term in objective.state_terms.items() if term.projector is not None)
    return Stepped(tuple(reports), watch.gradients, learning, tuple(watch.seconds), fitted)


class _Watch(TrainerCallback):
    """Keeps the first gradients, and the time of every step."""

    def __init__(self, student: torch.nn.Module, keep: bool) -> None:
        self._parameters = dict(student.named_parameters()) if keep else {}
        self._since = 0.0
        self.gradients: dict[str, Tensor] = {}
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            for name, parameter in self._parameters.items():
                if parameter.grad is not None:
                    self.gradients[name] = parameter.grad.detach().float().cpu().clone()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now
