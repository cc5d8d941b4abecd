"""Send the figures of a run to TensorBoard, Trackio, Weights & Biases or MLflow, by transformers' integrations.

The lines of `metrics.jsonl` are sent as they are written: train/loss, train/terms/NAME, train/rollout/…, and held-out
figures as eval/…, with the reference losses beside them. Where a tracker writes is its own setting: WANDB_PROJECT,
MLFLOW_TRACKING_URI, TRACKIO_DIR, TENSORBOARD_LOGGING_DIR, whose default is `tensorboard` in the run's folder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

from distillab.errors import ConfigError

_HELD_OUT, _STEP = "held_out_", "step"


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        ConfigError: one is not.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "A tracker is not installed.", where="training.report_to", fix=f"pip install {' '.join(missing)}"
        )


class Trackers(TrainerCallback):
    """The trackers of one run, on its first process.

    Args:
        names: as of training.report_to.
        folder: of the run.
        references: sent beside every held-out figure: name -> nats per token.
    """

    def __init__(self, names: Sequence[str], *, folder: Path, references: Mapping[str, float]) -> None:
        self._each = [kind() for kind in get_reporting_integration_callbacks(list(names))]
        for one in self._each:
            if isinstance(one, TensorBoardCallback) and one.logging_dir is None:
                one.logging_dir = str(folder / "tensorboard")
        self._references = references
        self._waiting: list[Mapping[str, Any]] = []
        self._begun: tuple[TrainingArguments, TrainerState, TrainerControl, Any] | None = None

    def attach(self, trainer: Trainer) -> None:
        """Let the trainer tell the trackers when it begins and ends."""
        for one in (*self._each, self):
            trainer.add_callback(one)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Remember the trainer's state; the trackers, which come before, are ready now."""
        self._begun = (args, state, control, model)

    def tell(self, line: Mapping[str, Any]) -> None:
        """Send a line of the measurements; one from before training is sent with the first after it."""
        self._waiting.append(line)
        if self._begun is None:
            return
        args, now, control, model = self._begun
        for waiting in self._waiting:
            state = copy.copy(now)
            state.global_step = waiting[_STEP]
            figures = dict(_figures(waiting))
            if any(name.startswith("eval_") for name in figures):
                figures |= {f"eval_{name}": value for name, value in self._references.items()}
            for one in self._each:
                one.on_log(args, state, control, model=model, logs=dict(figures))
        self._waiting.clear()


def _figures(line: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line by their names in a tracker."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{above}{name}/")
        elif isinstance(value, int | float) and name != _STEP:
            yield above + name.replace(_HELD_OUT, "eval_"), value
