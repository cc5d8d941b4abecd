"""Twenty steps on one microbatch must lower its loss: if they do not, no run will."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillab.doctor.clock import Clock
from distillab.doctor.page import from_page
from distillab.doctor.selftest.messages import left_out, number, scope
from distillab.doctor.selftest.setup import Setup
from distillab.doctor.selftest.stepping import Stepped, step, training_of
from distillab.errors import NumericsError
from distillab.records import CheckResult, Finding

CHECK_ID = "selftest-first-steps"
STEPS = 20
_LAST = 3  # steps whose mean is the end
_RISES = 1.05
_FALLS = 0.998
_NOTHING_TO_LEARN = 1e-3


def check_first_steps(setups: Sequence[Setup], clock: Clock) -> CheckResult:
    """Let a fresh student overfit a few rows by every objective, at the recipe's learning rate.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time.
    """
    missed: list[tuple[str, str]] = []
    findings: list[Finding] = []
    looked: list[Setup] = []
    for setup in setups:
        if (refusal := clock.refuses(STEPS)) is not None:
            missed.append((setup.name, refusal))
            continue
        looked.append(setup)
        try:
            stepped = step(setup, setup.student(), training_of(setup, steps=STEPS))
        except NumericsError as error:
            findings.append(_not_finite(setup, error))
            continue
        if not set(stepped.reports[0].terms) - stepped.fitted:
            missed.append((setup.name, "all terms are fitted to these few rows before the first step"))
        findings += first_step_findings(stepped, setup)
    return CheckResult(
        check=CHECK_ID,
        scope=scope(looked, f"{STEPS} steps on the same rows"),
        skipped=left_out(missed),
        findings=tuple(findings),
    )


def first_step_findings(stepped: Stepped, setup: Setup) -> list[Finding]:
    """Return what is wrong with these first steps."""
    first = stepped.loss(0, without=stepped.fitted)
    last = sum(stepped.loss(-1 - back, without=stepped.fitted) for back in range(_LAST)) / _LAST
    rate = setup.recipe.training.learning_rate
    evidence = (
        f"arms {setup.name}: loss {number(first)} before the first step, {number(last)} after {STEPS} steps on the "
        f"same {len(setup.data.lengths)} rows, at the recipe's learning rate {rate:g}",
        f"gradient norm {number(stepped.reports[0].grad_norm)} at the first step, "
        f"{number(stepped.reports[-1].grad_norm)} at the last",
    )
    if first < _NOTHING_TO_LEARN or not math.isfinite(first):
        return []
    if last > _RISES * first:
        return [from_page("first-steps-raise-loss", evidence=evidence, words={"lower_rate": f"{rate / 10:.1g}"})]
    if last > _FALLS * first:
        return [from_page("first-steps-change-nothing", evidence=evidence, words={"higher_rate": f"{rate * 10:.1g}"})]
    return []


def _not_finite(setup: Setup, error: NumericsError) -> Finding:
    return from_page(
        "first-steps-not-finite",
        evidence=(
            f"arms {setup.name}, learning rate {setup.recipe.training.learning_rate:g}",
            *str(error).splitlines(),
        ),
    )
