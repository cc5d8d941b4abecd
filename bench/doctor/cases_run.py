"""Faults of runs that the drawn ones seldom show; each is really trained."""

from __future__ import annotations

from collections.abc import Sequence

from bench.doctor.case import Cases, Place
from bench.doctor.loops import Loop, audit_log, run
from bench.doctor.world_run import flat, warm_then_flat
from distillab.records import CheckResult

CASES = Cases()


@CASES.fault("torch", "run", "nothing-learned", beside=["evaluation-never-changes"])
def a_copy_is_optimised(place: Place) -> Sequence[CheckResult]:
    """The optimizer holds the parameters of a model that was replaced afterwards."""
    return audit_log(place, run(place, Loop(optimises_a_copy=True)))


@CASES.fault("torch", "run", "budget-too-small")
def stopped_while_it_falls(place: Place) -> Sequence[CheckResult]:
    """28 steps: the held-out loss falls at every measurement."""
    return audit_log(place, run(place, Loop(steps=28, evaluate_every=4, schedule=warm_then_flat)))


@CASES.fault("torch", "run", "nothing-learned", "loss-flat-near-uniform", "learning-rate-too-low")
def softmax_before_the_cross_entropy(place: Place) -> Sequence[CheckResult]:
    """cross_entropy takes logits, and is given probabilities: it stays near log V."""
    return audit_log(place, run(place, Loop(softmax_twice=True)))


@CASES.fault("torch", "run", "loss-too-good", "loss-below-entropy")
def no_causal_mask(place: Place) -> Sequence[CheckResult]:
    """A four-dimensional mask of zeros: every position sees the token that it is to predict."""
    return audit_log(place, run(place, Loop(sees_the_future=True, steps=250)))


@CASES.fault("torch", "run", "loss-spikes")
def a_broken_shard(place: Place) -> Sequence[CheckResult]:
    """Every 15th batch is noise."""
    return audit_log(place, run(place, Loop(broken_rows_every=15, rate=1e-2)))


@CASES.fault("torch", "run", "held-out-above-uniform", "loss-diverges", "gradient-explodes", "loss-flat-near-uniform")
def rate_of_another_model(place: Place) -> Sequence[CheckResult]:
    """A learning rate of 1 for AdamW."""
    return audit_log(place, run(place, Loop(rate=1.0, schedule=flat)))
