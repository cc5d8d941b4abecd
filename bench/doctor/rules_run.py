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


def _loop(made: LoggedRun, **changes: object) -> LoggedRun:
    return replace(made, loop=replace(made.loop, **changes))


def _logged(made: LoggedRun, change: Callable[[int, dict[str, float]], dict[str, float]]) -> LoggedRun:
    return replace(made, of_log=(*made.of_log, lambda log: [change(n, row) for n, row in enumerate(log)]))


def _untrained(made: LoggedRun) -> bool:
    return not made.loop.pretrained


def _labels(made: LoggedRun) -> bool:
    return not made.loop.pretrained and made.loop.teacher is None


_NEVER_LEARNS = ("nothing-learned", "loss-flat-near-uniform", "learning-rate-too-low")
_STANDS_STILL = ["evaluation-never-changes", *_NEVER_LEARNS, "loss-never-changes"]


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


@RULES.rule("schedule", "learning-rate-zero", beside=_STANDS_STILL)
def rate_rounded_to_zero(made: LoggedRun, draw: Random) -> LoggedRun:
    """By a configuration file."""
    return _loop(made, rate=0.0)


@RULES.rule("schedule", *_NEVER_LEARNS, fits=_labels, beside=["evaluation-never-changes"])
def rate_of_a_large_model(made: LoggedRun, draw: Random) -> LoggedRun:
    """1e-6 for a student with random weights."""
    return _loop(made, rate=draw.choice((1e-6, 1e-5)))


@RULES.rule(
    "schedule",
    "loss-diverges",
    "gradient-explodes",
    "held-out-above-uniform",
    "loss-flat-near-uniform",
    "nothing-learned",
    "loss-spikes",
    fits=_labels,
)
def rate_far_too_high(made: LoggedRun, draw: Random) -> LoggedRun:
    """0.3 or 1 for AdamW."""
    return _loop(made, rate=draw.choice((0.3, 1.0)), schedule=flat)


@RULES.rule("schedule", "schedule-only-warms-up", beside=["learning-rate-too-low"])
def warmup_longer_than_the_run(made: LoggedRun, draw: Random) -> LoggedRun:
    """warmup_steps of another run."""
    return _loop(made, schedule=_warmup(draw.choice((200, 500, 2000))))


@RULES.rule("schedule", "schedule-restarts")
def stepped_too_often(made: LoggedRun, draw: Random) -> LoggedRun:
    """A period shorter than the run: a cosine that rises again, or a saw."""
    return _loop(made, schedule=draw.choice((_cosine(30), _cosine(40), _saw(40), _saw(60))))


@RULES.rule("schedule", "schedule-cut-short")
def schedule_of_a_longer_run(made: LoggedRun, draw: Random) -> LoggedRun:
    """For thrice the steps, or more."""
    return _loop(made, schedule=_cosine(draw.choice((500, 1000))))


@RULES.rule("schedule", "schedule-decays-too-early", *_NEVER_LEARNS)
def decay_of_an_epoch_at_every_step(made: LoggedRun, draw: Random) -> LoggedRun:
    """ExponentialLR stands inside of the inner loop."""
    return _loop(made, schedule=_decay(draw.choice((0.8, 0.9))))


@RULES.rule("schedule", "steps-out-of-order", beside=["schedule-restarts"])
def resumed_into_the_same_log(made: LoggedRun, draw: Random) -> LoggedRun:
    """From a checkpoint that is older than the last line."""
    stopped, resumed = draw.choice(((70, 40), (90, 60), (50, 20)))
    return replace(made, of_log=(lambda log: log[:stopped] + log[resumed:],))


@RULES.rule("schedule", "evaluation-never-changes", fits=_untrained)
def a_copy_is_evaluated(made: LoggedRun, draw: Random) -> LoggedRun:
    """Made before the training."""
    return _loop(made, evaluates_a_copy=True)


@RULES.rule(
    "schedule",
    "nothing-learned",
    "loss-flat-near-uniform",
    "evaluation-never-changes",
    "learning-rate-too-low",
    fits=_labels,
)
def a_copy_is_optimised(made: LoggedRun, draw: Random) -> LoggedRun:
    """The optimizer holds parameters of a model that was replaced."""
    return _loop(made, optimises_a_copy=True)


@RULES.rule("schedule", "budget-too-small", fits=_labels)
def stopped_while_it_falls(made: LoggedRun, draw: Random) -> LoggedRun:
    """A few steps of warm-up and a few more."""
    steps = draw.choice((16, 20, 24))
    return replace(_loop(made, steps=steps, evaluate_every=2, schedule=warm_then_flat), every=1)


# ---------------------------------------------------------------- precision


def _from(
    step: int, change: Callable[[dict[str, float]], dict[str, float]]
) -> Callable[[int, dict[str, float]], dict[str, float]]:
    return lambda n, row: {**row, **change(row)} if n >= step else row


@RULES.rule("precision", "loss-not-finite", beside=["gradient-not-finite", "held-out-worse-than-untrained"])
def not_a_number_from_a_step_on(made: LoggedRun, draw: Random) -> LoggedRun:
    """A batch that scores nothing, or an overflow; its weights are lost."""

    def lost(row: dict[str, float]) -> dict[str, float]:
        return {name: math.nan for name in ("loss", "grad_norm", "eval_loss") if name in row}

    return _logged(made, _from(draw.choice((20, 50, 80)), lost))


@RULES.rule("precision", "nan-shown-as-zero", beside=["gradient-not-finite", "loss-exactly-zero", "loss-not-finite"])
def printed_as_zero(made: LoggedRun, draw: Random) -> LoggedRun:
    """logging_nan_inf_filter: the loss is 0.0, the gradient norm tells."""

    def hidden(row: dict[str, float]) -> dict[str, float]:
        return {"loss": 0.0, "grad_norm": math.nan, **({"eval_loss": math.nan} if "eval_loss" in row else {})}

    return replace(_logged(made, _from(draw.choice((5, 30, 60)), hidden)), gradients=True)


@RULES.rule("precision", "gradient-zero", beside=_STANDS_STILL)
def gradients_underflow(made: LoggedRun, draw: Random) -> LoggedRun:
    """float16 without a scaler."""
    made = replace(_loop(made, rate=0.0), gradients=True)
    rate = 1e-3
    return _logged(made, lambda n, row: {**row, "grad_norm": 0.0, "learning_rate": rate * (1 - n / made.loop.steps)})


@RULES.rule("precision", "gradient-not-finite")
def scaler_never_finds_its_scale(made: LoggedRun, draw: Random) -> LoggedRun:
    """Every few steps the gradient is infinite, and the step is skipped."""
    every = draw.choice((4, 7, 11))
    made = replace(made, gradients=True, every=1)
    return _logged(made, lambda n, row: {**row, "grad_norm": math.inf} if n % every == 0 else row)


@RULES.rule("precision", "initial-loss-far-from-uniform", fits=_labels)
def weights_drawn_too_large(made: LoggedRun, draw: Random) -> LoggedRun:
    """An output layer with the wrong scale."""
    return replace(_loop(made, initial_scale=draw.choice((50.0, 100.0, 300.0))), told=True, every=1)


# ---------------------------------------------------------------- reduction


@RULES.rule(
    "reduction", "accumulation-rescales", "initial-loss-far-from-uniform", fits=_labels, beside=["loss-diverges"]
)
def accumulated_and_never_divided(made: LoggedRun, draw: Random) -> LoggedRun:
    """The microbatches' losses are added."""
    times = draw.choice((2, 4, 8))
    return replace(
        _loop(made, accumulate=times, undivided=True, batch_size=8), told=True, accumulation=draw.choice((None, times))
    )


@RULES.rule("reduction", "accumulation-rescales", "initial-loss-far-from-uniform", fits=_labels)
def logged_steps_summed(made: LoggedRun, draw: Random) -> LoggedRun:
    """running += loss, told every few steps."""
    return replace(made, every=draw.choice((5, 10)), joined=sum, told=True)


@RULES.rule(
    "reduction",
    "held-out-above-uniform",
    "accumulation-rescales",
    fits=_labels,
    beside=["held-out-worse-than-untrained"],
)
def held_out_batches_summed(made: LoggedRun, draw: Random) -> LoggedRun:
    """Several held-out batches, added up."""
    times = draw.choice((3, 4, 8))
    made = replace(made, told=True)
    return _logged(made, lambda n, row: {**row, "eval_loss": times * row["eval_loss"]} if "eval_loss" in row else row)


@RULES.rule("reduction", "loss-negative", beside=["initial-loss-far-from-uniform", "loss-too-good", "loss-diverges"])
def sign_lost(made: LoggedRun, draw: Random) -> LoggedRun:
    """The mean log-probability is logged."""
    return _logged(made, lambda n, row: {name: -value if "loss" in name else value for name, value in row.items()})


# ---------------------------------------------------------------- loss


@RULES.rule("loss", "term-without-effect", fits=_labels)
def part_logged_and_never_added(made: LoggedRun, draw: Random) -> LoggedRun:
    """total = ce_loss."""
    low = draw.choice((0.2, 0.5, 1.0))
    return _logged(made, lambda n, row: {**row, "ce_loss": row["loss"], "kd_loss": low + 0.3 * ((n * 7) % 11) / 11})


@RULES.rule("loss", "term-never-changes")
def part_is_a_constant(made: LoggedRun, draw: Random) -> LoggedRun:
    """It was detached and cached at the first step."""
    value = draw.uniform(0.5, 3.0)
    return _logged(made, lambda n, row: {**row, "kd_loss": value})


@RULES.rule(
    "loss",
    "nothing-learned",
    "loss-flat-near-uniform",
    "learning-rate-too-low",
    fits=lambda made: _labels(made) and made.told,
)
def softmax_before_the_cross_entropy(made: LoggedRun, draw: Random) -> LoggedRun:
    """cross_entropy is given probabilities."""
    return _loop(made, softmax_twice=True)


@RULES.rule("mask", "loss-too-good", "loss-below-entropy", fits=lambda made: _labels(made) and made.told)
def no_causal_mask(made: LoggedRun, draw: Random) -> LoggedRun:
    """Every position sees the token that it is to predict."""
    return _loop(made, sees_the_future=True, steps=250, seed=0, accumulate=1, batch_size=8, rate=3e-3, schedule=None)


@RULES.rule(
    "tokenizer",
    "held-out-above-uniform",
    "held-out-worse-than-untrained",
    "held-out-never-below-unigram",
    fits=lambda made: made.told and _untrained(made),
)
def teacher_with_other_tokens(made: LoggedRun, draw: Random) -> LoggedRun:
    """Compared by index with a teacher whose ids mean other tokens."""
    return _loop(made, teacher="other tokens")


# ---------------------------------------------------------------- data


@RULES.rule("data", "loss-spikes", fits=_labels)
def a_broken_shard(made: LoggedRun, draw: Random) -> LoggedRun:
    """Every few batches are noise."""
    return replace(_loop(made, broken_rows_every=draw.choice((10, 15, 20)), rate=1e-2, steps=160), every=1)


@RULES.rule("data", "overfitting", fits=_labels)
def a_slice_that_was_meant_for_a_test(made: LoggedRun, draw: Random) -> LoggedRun:
    """A few rows, read again and again."""
    return _loop(made, rows=draw.choice((8, 16)), steps=250, rate=1e-2, schedule=flat, batch_size=8, accumulate=1)


@RULES.rule("data", "evaluation-is-training", fits=_labels)
def training_batch_evaluated(made: LoggedRun, draw: Random) -> LoggedRun:
    """The figure is that of the batch that was just learned."""
    made = replace(made, every=1)
    return _logged(made, lambda n, row: {**row, "eval_loss": row["loss"]} if "eval_loss" in row else row)


RUNS = World("run", draw_run, lambda made: made.trainer, examine_run, RULES)
