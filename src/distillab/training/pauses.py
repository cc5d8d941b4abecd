"""Save checkpoints by the clock, and when a signal ends the run, in addition to those by steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from distillab.interruption import interrupt_requested


class Pauses(TrainerCallback):
    """Callback that requests a checkpoint after a step, and the end of training after a signal.

    Args:
        minutes: after which a checkpoint is due.
        every: a checkpoint, and the end of training after a signal, wait for a step that is a multiple of it.
        over_processes: sums flags over all processes, so that all do the same after the same step: each can get the
            signal at another moment, and the clock is that of the first process.
        first: whether this is the first process.
    """

    def __init__(
        self,
        *,
        minutes: float,
        every: int = 1,
        over_processes: Callable[[tuple[int, int]], tuple[int, int]],
        first: bool,
    ) -> None:
        self._seconds = 60 * minutes
        self._over_processes, self._first = over_processes, first
        self._since = time.monotonic()
        self._every, self._waits = every, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Return what is due after this step."""
        if args.save_strategy == SaveStrategy.NO:
            return
        due = self._first and time.monotonic() - self._since >= self._seconds
        ends, saves = self._over_processes((int(interrupt_requested() is not None), int(due)))
        self._waits |= bool(saves or control.should_save)
        last = state.global_step >= state.max_steps
        if state.global_step % self._every and not last:
            control.should_save = False
            return
        if ends:
            control.should_training_stop = True
        # the last step is saved too: the evaluation after it can be interrupted
        control.should_save = bool(ends or self._waits or last)
        self._waits = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restart the clock."""
        self._since = time.monotonic()
