"""Runs of a plain loop, each really trained, by the log that it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.doctor.case import Cases, Place
from bench.doctor.loops import VOCABULARY, Loop, as_csv, as_json_lines, cosine, run
from distillab.doctor import audit_run
from distillab.records import CheckResult

CASES = Cases()


def _audit(place: Place, loop: Loop, *, accumulation: int | None = None, random: bool = True) -> Sequence[CheckResult]:
    path = as_json_lines(run(place, loop), place.scratch / "log.jsonl")
    return audit_run(
        path,
        vocabulary=VOCABULARY,
        loss="divergence" if loop.teacher else "cross_entropy",
        random_student=random,
        accumulation=accumulation,
    ).checks


@CASES.fault("torch", "run", "accumulation-rescales")
def accumulated_and_never_divided(place: Place) -> Sequence[CheckResult]:
    """Four microbatches a step, and their losses are added."""
    return _audit(place, Loop(accumulate=4, undivided=True), accumulation=4)


@CASES.fault("torch", "run", "held-out-above-uniform", "held-out-worse-than-untrained", "held-out-never-below-unigram")
def teacher_with_other_tokens(place: Place) -> Sequence[CheckResult]:
    """KD by index from a teacher whose ids mean other tokens: the loss falls smoothly, the held-out text does not."""
    log = run(place, Loop(teacher="other tokens"))
    path = as_json_lines(log, place.scratch / "log.jsonl")
    return audit_run(path, vocabulary=VOCABULARY, random_student=True).checks


@CASES.fault("torch", "run", "evaluation-never-changes")
def a_copy_is_evaluated(place: Place) -> Sequence[CheckResult]:
    """The model was copied before training, and the copy is evaluated."""
    return _audit(place, Loop(evaluates_a_copy=True))


@CASES.fault("torch", "run", "nothing-learned", beside=["evaluation-never-changes"])
def a_copy_is_optimised(place: Place) -> Sequence[CheckResult]:
    """The optimizer holds the parameters of a model that was replaced afterwards."""
    return _audit(place, Loop(optimises_a_copy=True))


@CASES.fault("torch", "run", "steps-out-of-order")
def resumed_into_the_same_log(place: Place) -> Sequence[CheckResult]:
    """A run that stopped at step 70 goes on from its checkpoint of step 40, in the same CSV."""
    log = run(place, Loop())
    return audit_run(as_csv(log[:70] + log[40:], place.scratch / "log.csv"), vocabulary=VOCABULARY).checks


@CASES.fault("torch", "run", "schedule-restarts")
def cosine_stepped_too_often(place: Place) -> Sequence[CheckResult]:
    """CosineAnnealingLR(T_max=30) in a run of 120 steps."""
    return _audit(place, Loop(schedule=cosine(30)))


@CASES.fault("torch", "run", "schedule-cut-short")
def cosine_of_a_longer_run(place: Place) -> Sequence[CheckResult]:
    """A schedule for 600 steps, and 120 are made."""
    return _audit(place, Loop(schedule=cosine(600)))


@CASES.fault("torch", "run", "budget-too-small")
def stopped_while_it_falls(place: Place) -> Sequence[CheckResult]:
    """28 steps: the held-out loss falls at every measurement."""
    return _audit(place, Loop(steps=28, evaluate_every=4, schedule=lambda step: min(1.0, (step + 1) / 10)))


@CASES.fault("torch", "run", "nothing-learned", "loss-flat-near-uniform", "learning-rate-too-low")
def softmax_before_the_cross_entropy(place: Place) -> Sequence[CheckResult]:
    """cross_entropy takes logits, and is given probabilities: it stays near log V."""
    return _audit(place, Loop(softmax_twice=True))


@CASES.fault("torch", "run", "initial-loss-far-from-uniform")
def weights_far_too_large(place: Place) -> Sequence[CheckResult]:
    """An output layer drawn with the wrong scale: the first loss is far above log V."""
    return _audit(place, Loop(initial_scale=100.0))


@CASES.fault("torch", "run", "loss-too-good", "loss-below-entropy")
def no_causal_mask(place: Place) -> Sequence[CheckResult]:
    """A four-dimensional mask of zeros: every position sees the token that it is to predict."""
    return _audit(place, Loop(sees_the_future=True, steps=250))


@CASES.fault("torch", "run", "loss-spikes")
def a_broken_shard(place: Place) -> Sequence[CheckResult]:
    """Every 15th batch is noise."""
    return _audit(place, Loop(broken_rows_every=15, rate=1e-2))


@CASES.fault("torch", "run", "overfitting")
def sixteen_rows(place: Place) -> Sequence[CheckResult]:
    """The loader was built from a slice that was meant for a test."""
    return _audit(place, Loop(rows=16, steps=250, rate=1e-2, schedule=lambda step: 1.0))


@CASES.fault("torch", "run", "held-out-above-uniform", "loss-diverges", "gradient-explodes", "loss-flat-near-uniform")
def rate_of_another_model(place: Place) -> Sequence[CheckResult]:
    """A learning rate of 1 for AdamW."""
    return _audit(place, Loop(rate=1.0, schedule=lambda step: 1.0))


@CASES.good("torch", "run")
def plain_run_as_csv(place: Place) -> Sequence[CheckResult]:
    """From random weights, linear decay."""
    return audit_run(
        as_csv(run(place, Loop()), place.scratch / "log.csv"), vocabulary=VOCABULARY, random_student=True
    ).checks


@CASES.good("torch", "run")
def plain_run_without_any_fact(place: Place) -> Sequence[CheckResult]:
    """The same log, and nobody says what it is."""
    return audit_run(as_json_lines(run(place, Loop()), place.scratch / "log.jsonl")).checks


@CASES.good("torch", "run")
def right_teacher(place: Place) -> Sequence[CheckResult]:
    """Forward KL from the real small teacher; the held-out figure is a cross-entropy."""
    return audit_run(
        as_json_lines(run(place, Loop(teacher="right")), place.scratch / "log.jsonl"),
        vocabulary=VOCABULARY,
        random_student=True,
    ).checks


@CASES.good("torch", "run")
def accumulated_rightly(place: Place) -> Sequence[CheckResult]:
    """Four microbatches a step, divided."""
    return _audit(place, Loop(accumulate=4), accumulation=4)


@CASES.good("torch", "run")
def pretrained_student_at_a_constant_rate(place: Place) -> Sequence[CheckResult]:
    """A student that can already write stories: the loss hardly moves."""
    return _audit(place, Loop(pretrained=True, rate=3e-4, schedule=lambda step: 1.0), random=False)


@CASES.good("torch", "run")
def noisy_small_batches(place: Place) -> Sequence[CheckResult]:
    """Two rows a step: the loss jumps about."""
    log = run(place, Loop(batch_size=2, steps=200))
    assert all(math.isfinite(row["loss"]) for row in log)
    return audit_run(as_csv(log, place.scratch / "log.csv"), vocabulary=VOCABULARY, random_student=True).checks
