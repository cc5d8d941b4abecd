"""The on-policy step through TRL's DistillationTrainer: reverse KL (beta 1) on answers that the student samples.

Same weights, same prompts, same number of new tokens, same optimizer, learning rate and clipping; float32, no gradient
checkpointing. Everything else is TRL's default. Runs in the environment of `make bench-peers`.
"""

from __future__ import annotations

import tempfile
from typing import Any

from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer  # type: ignore[import-not-found]

from bench.measure import Probe
from bench.pair import digest, student_of, teacher_of, token_ids
from bench.settings import Run
from bench.trl_gkd import Ticks, run_steps, same_as_here, tokenizer_of


class _GivenAnswers(DistillationTrainer):  # type: ignore[misc]
    """The same trainer where the answers are those of `pair.py`, so that both libraries read the same ids."""

    answers: list[list[int]]

    def _generate_single_turn(self, *_args: Any, **_kwargs: Any) -> list[list[int]]:
        return self.answers


class _Written(Ticks):
    """Also keeps how many tokens the student wrote."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step has ended."""
        if "loss" in kwargs["logs"]:
            self.probe.facts["tokens"] = kwargs["logs"]["completions/mean_length"] * args.per_device_train_batch_size
        super().on_log(args, state, control, **kwargs)


def trl_on_policy(run: Run, probe: Probe) -> None:
    """Steps of DistillationTrainer, from log line to log line."""
    _steps(run, probe, DistillationTrainer)


def trl_given_answers(run: Run, probe: Probe) -> None:
    """The same on given answers."""
    _steps(run, probe, _GivenAnswers)


def _steps(run: Run, probe: Probe, kind: type[Any]) -> None:
    size, ids = run.shape, token_ids(run.shape)
    teacher, student = teacher_of(size), student_of(size)
    probe.facts["digest"] = [digest(teacher, ids), digest(student, ids)]
    steps, prompt_length = run.warmup + run.steps + 1, size.row_length // 2
    prompts = [" ".join(f"w{token}" for token in row[:prompt_length]) for row in ids.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationConfig(
            beta=1.0,
            max_completion_length=size.row_length - prompt_length,
            shuffle_dataset=False,
            **same_as_here(run, folder, steps=steps),
        )
        trainer = kind(
            model=student,
            teacher_model=teacher,
            args=arguments,
            # the prompts again and again: every step answers all of them
            train_dataset=Dataset.from_dict({"prompt": prompts * steps}),
            processing_class=tokenizer_of(size),
            callbacks=[_Written(probe)],
        )
        if kind is _GivenAnswers:
            trainer.answers = ids[:, prompt_length:].tolist()
        run_steps(trainer, probe)
