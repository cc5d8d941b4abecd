"""Faults of runs: schedules, number formats, reductions, data; some in the loop, some in its log."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from bench.doctor.grammar import Mutations, Random, World
from bench.doctor.loops import cosine
from bench.doctor.world_run import LoggedRun, draw_run, examine_run, flat, warm_then_flat

RULES: Mutations[LoggedRun] = Mutations()
add = RULES.add

Row = dict[str, float]
OfRow = Callable[[int, Row], Row]


def _loop(made: LoggedRun, **changes: object) -> LoggedRun:
    return replace(made, loop=replace(made.loop, **changes))


def _logged(made: LoggedRun, change: OfRow) -> LoggedRun:
    """A change to the row of every step, by its number."""
    return replace(made, of_log=(*made.of_log, lambda log: [change(n, row) for n, row in enumerate(log)]))


def _untrained(made: LoggedRun) -> bool:
    return not made.loop.pretrained


def _labels(made: LoggedRun) -> bool:
    return not made.loop.pretrained and made.loop.teacher is None


def _told_labels(made: LoggedRun) -> bool:
    return _labels(made) and made.told


_NEVER_LEARNS = "nothing-learned loss-flat-near-uniform learning-rate-too-low"
_STANDS_STILL = f"evaluation-never-changes {_NEVER_LEARNS} loss-never-changes"


# one function for equal arguments: equal loops are trained once
@cache
def _warmup(steps: int) -> Callable[[int], float]:
    return lambda step: (step + 1) / steps


@cache
def _decay(gamma: float) -> Callable[[int], float]:
    return lambda step: gamma**step


@cache
def _saw(period: int) -> Callable[[int], float]:
    return lambda step: 1.0 - (step % period) / period


_cosine = cache(cosine)


def _resumed(made: LoggedRun, stopped: int, resumed: int) -> LoggedRun:
    return replace(made, of_log=(lambda log: log[:stopped] + log[resumed:],))


def _from(step: int, change: Callable[[Row], Row]) -> OfRow:
    return lambda n, row: {**row, **change(row)} if n >= step else row


def _lost(row: Row) -> Row:
    return {name: math.nan for name in ("loss", "grad_norm", "eval_loss") if name in row}


def _hidden(row: Row) -> Row:
    return {"loss": 0.0, "grad_norm": math.nan, **({"eval_loss": math.nan} if "eval_loss" in row else {})}


def _underflown(made: LoggedRun) -> OfRow:
    return lambda n, row: {**row, "grad_norm": 0.0, "learning_rate": 1e-3 * (1 - n / made.loop.steps)}


def _infinite(every: int) -> OfRow:
    return lambda n, row: {**row, "grad_norm": math.inf} if n % every == 0 else row


def _held_out(value: Callable[[Row], float]) -> OfRow:
    return lambda n, row: {**row, "eval_loss": value(row)} if "eval_loss" in row else row


def _held_out_times(times: int) -> OfRow:
    return _held_out(lambda row: times * row["eval_loss"])


def _undivided(made: LoggedRun, times: int, draw: Random) -> LoggedRun:
    made = _loop(made, accumulate=times, undivided=True, batch_size=8)
    return replace(made, told=True, accumulation=draw.choice((None, times)))


def _two_parts(low: float) -> OfRow:
    return lambda n, row: {**row, "ce_loss": row["loss"], "kd_loss": low + 0.3 * ((n * 7) % 11) / 11}


def _constant_part(value: float) -> OfRow:
    return lambda n, row: {**row, "kd_loss": value}


# fmt: off

# ---------------------------------------------------------------- schedule

# By a configuration file.
add("schedule", "rate-rounded-to-zero", "learning-rate-zero",
    lambda made, draw: _loop(made, rate=0.0), beside=_STANDS_STILL)
# 1e-6 for a student with random weights.
add("schedule", "rate-of-a-large-model", _NEVER_LEARNS,
    lambda made, draw: _loop(made, rate=draw.choice((1e-6, 1e-5))), _labels, beside="evaluation-never-changes")
# 0.3 or 1 for AdamW.
add("schedule", "rate-far-too-high",
    "loss-diverges gradient-explodes held-out-above-uniform loss-flat-near-uniform nothing-learned loss-spikes",
    lambda made, draw: _loop(made, rate=draw.choice((0.3, 1.0)), schedule=flat), _labels)
# warmup_steps of another run.
add("schedule", "warmup-longer-than-the-run", "schedule-only-warms-up",
    lambda made, draw: _loop(made, schedule=_warmup(draw.choice((200, 500, 2000)))), beside="learning-rate-too-low")
# A period shorter than the run: a cosine that rises again, or a saw.
add("schedule", "stepped-too-often", "schedule-restarts",
    lambda made, draw: _loop(made, schedule=draw.choice((_cosine(30), _cosine(40), _saw(40), _saw(60)))))
# For thrice the steps, or more.
add("schedule", "schedule-of-a-longer-run", "schedule-cut-short",
    lambda made, draw: _loop(made, schedule=_cosine(draw.choice((500, 1000)))))
# ExponentialLR stands inside of the inner loop.
add("schedule", "decay-of-an-epoch-at-every-step", f"schedule-decays-too-early {_NEVER_LEARNS}",
    lambda made, draw: _loop(made, schedule=_decay(draw.choice((0.8, 0.9)))))
# From a checkpoint that is older than the last line.
add("schedule", "resumed-into-the-same-log", "steps-out-of-order",
    lambda made, draw: _resumed(made, *draw.choice(((70, 40), (90, 60), (50, 20)))), beside="schedule-restarts")
# Made before the training.
add("schedule", "a-copy-is-evaluated", "evaluation-never-changes",
    lambda made, draw: _loop(made, evaluates_a_copy=True), _untrained)
# The optimizer holds parameters of a model that was replaced.
add("schedule", "a-copy-is-optimised", f"evaluation-never-changes {_NEVER_LEARNS}",
    lambda made, draw: _loop(made, optimises_a_copy=True), _labels)
# A few steps of warm-up and a few more.
add("schedule", "stopped-while-it-falls", "budget-too-small",
    lambda made, draw: replace(_loop(made, steps=draw.choice((16, 20, 24)), evaluate_every=2, schedule=warm_then_flat),
                               every=1), _labels)

# ---------------------------------------------------------------- precision

# A batch that scores nothing, or an overflow; its weights are lost.
add("precision", "not-a-number-from-a-step-on", "loss-not-finite",
    lambda made, draw: _logged(made, _from(draw.choice((20, 50, 80)), _lost)),
    beside="gradient-not-finite held-out-worse-than-untrained")
# logging_nan_inf_filter: the loss is 0.0, the gradient norm tells.
add("precision", "printed-as-zero", "nan-shown-as-zero",
    lambda made, draw: replace(_logged(made, _from(draw.choice((5, 30, 60)), _hidden)), gradients=True),
    beside="gradient-not-finite loss-exactly-zero loss-not-finite")
# float16 without a scaler.
add("precision", "gradients-underflow", "gradient-zero",
    lambda made, draw: replace(_logged(_loop(made, rate=0.0), _underflown(made)), gradients=True), beside=_STANDS_STILL)
# Every few steps the gradient is infinite, and the step is skipped.
add("precision", "scaler-never-finds-its-scale", "gradient-not-finite",
    lambda made, draw: replace(_logged(made, _infinite(draw.choice((4, 7, 11)))), gradients=True, every=1))
# An output layer with the wrong scale.
add("precision", "weights-drawn-too-large", "initial-loss-far-from-uniform",
    lambda made, draw: replace(_loop(made, initial_scale=draw.choice((50.0, 100.0, 300.0))), told=True, every=1),
    _labels)

# ---------------------------------------------------------------- reduction

# The microbatches' losses are added.
add("reduction", "accumulated-and-never-divided", "accumulation-rescales initial-loss-far-from-uniform",
    lambda made, draw: _undivided(made, draw.choice((2, 4, 8)), draw), _labels, beside="loss-diverges")
# running += loss, told every few steps.
add("reduction", "logged-steps-summed", "accumulation-rescales initial-loss-far-from-uniform",
    lambda made, draw: replace(made, every=draw.choice((5, 10)), joined=sum, told=True), _labels)
# Several held-out batches, added up.
add("reduction", "held-out-batches-summed", "held-out-above-uniform accumulation-rescales",
    lambda made, draw: _logged(replace(made, told=True), _held_out_times(draw.choice((3, 4, 8)))),
    _labels, beside="held-out-worse-than-untrained")
# The mean log-probability is logged.
add("reduction", "sign-lost", "loss-negative",
    lambda made, draw: _logged(made, lambda n, row: {key: -v if "loss" in key else v for key, v in row.items()}),
    beside="initial-loss-far-from-uniform loss-too-good loss-diverges")

# ---------------------------------------------------------------- loss, mask, tokenizer

# total = ce_loss.
add("loss", "part-logged-and-never-added", "term-without-effect",
    lambda made, draw: _logged(made, _two_parts(draw.choice((0.2, 0.5, 1.0)))), _labels)
# It was detached and cached at the first step.
add("loss", "part-is-a-constant", "term-never-changes",
    lambda made, draw: _logged(made, _constant_part(draw.uniform(0.5, 3.0))))
# cross_entropy is given probabilities.
add("loss", "softmax-before-the-cross-entropy", _NEVER_LEARNS,
    lambda made, draw: _loop(made, softmax_twice=True), _told_labels)
# Every position sees the token that it is to predict.
add("mask", "no-causal-mask", "loss-too-good loss-below-entropy",
    lambda made, draw: _loop(made, sees_the_future=True, steps=250, seed=0, accumulate=1, batch_size=8, rate=3e-3,
                             schedule=None), _told_labels)
# Compared by index with a teacher whose ids mean other tokens.
add("tokenizer", "teacher-with-other-tokens",
    "held-out-above-uniform held-out-worse-than-untrained held-out-never-below-unigram",
    lambda made, draw: _loop(made, teacher="other tokens"), lambda made: made.told and _untrained(made))

# ---------------------------------------------------------------- data

# Every few batches are noise.
add("data", "a-broken-shard", "loss-spikes",
    lambda made, draw: replace(_loop(made, broken_rows_every=draw.choice((10, 15, 20)), rate=1e-2, steps=160), every=1),
    _labels)
# A few rows, read again and again.
add("data", "a-slice-that-was-meant-for-a-test", "overfitting",
    lambda made, draw: _loop(made, rows=draw.choice((8, 16)), steps=250, rate=1e-2, schedule=flat, batch_size=8,
                             accumulate=1), _labels)
# The figure is that of the batch that was just learned.
add("data", "training-batch-evaluated", "evaluation-is-training",
    lambda made, draw: _logged(replace(made, every=1), _held_out(lambda row: row["loss"])), _labels)
# fmt: on

RUNS = World("run", draw_run, lambda made: made.trainer, examine_run, RULES)
