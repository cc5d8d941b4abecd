"""The checks that need the models of the arms."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from distillab.doctor.clock import Clock
from distillab.preflight.costs import CHECK_ID as COSTS
from distillab.preflight.costs import Budget, check_costs
from distillab.preflight.first_steps import CHECK_ID as FIRST_STEPS
from distillab.preflight.first_steps import check_first_steps
from distillab.preflight.machine import Weights
from distillab.preflight.setup import Arm, setups_of
from distillab.preflight.stored import CHECK_ID as CACHE
from distillab.preflight.stored import check_cache
from distillab.records import CheckResult

CHECKS = 3  # that are begun one after another
_WIDTH = 4  # bytes of a weight, of most


@contextmanager
def _little_to_collect() -> Iterator[None]:
    # a trainer collects garbage whenever it begins, and that takes longer than its steps here: over half a second, most
    # of it for the modules that are loaded
    if gc.get_freeze_count():  # whose program has left them alone already, and shall find them so
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_arm_checks(
    arms: Sequence[Arm], original: PreTrainedModel, *, weights: Sequence[Weights], budget: Budget, clock: Clock
) -> tuple[CheckResult, ...]:
    """Try the runs of these arms on a few rows, each different objective once.

    Args:
        arms: at least one; of one student and one data set.
        original: the student before training; it is not changed.
        weights: of the models of the arms.
        budget: how often each arm is run.
        clock: what is left of the time.
    Raises:
        ConfigError, TeacherError: a term does not fit the models; the run would end with the same.
    """
    with tempfile.TemporaryDirectory(prefix="distillab-preflight-") as scratch, _little_to_collect():
        setups = setups_of(arms, original, scratch=Path(scratch))
        tokens = sum(setups[0].data.lengths)
        largest = max(weights, key=lambda one: one.student + one.teacher)
        operations = tokens * (6 * largest.student + 2 * largest.teacher) / _WIDTH
        clock.guess_unit(operations, setups[0].device.type)
        # the cheap one first; the steps are measured, so that the clock knows what the costs take
        clock.begin(CACHE)
        found = [check_cache(setups, clock)]
        clock.begin(FIRST_STEPS)
        found += check_first_steps(setups, clock)
        clock.begin(COSTS)
        found.append(check_costs(setups, weights, budget, clock))
        return tuple(found)
