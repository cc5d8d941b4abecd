"""Twenty steps on one microbatch must lower its loss, and their gradient must reach every parameter that learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from distillab.config.term_base import LinearWeight
from distillab.config.terms import TermConfig
from distillab.doctor.checks import from_page
from distillab.doctor.clock import Clock
from distillab.errors import NumericsError
from distillab.preflight.messages import left_out, number, scope
from distillab.preflight.setup import Setup
from distillab.preflight.stepping import Stepped, step, training_of
from distillab.records import CheckResult, Finding

CHECK_ID, GRADIENT = "first steps", "gradient"
STEPS = 20
_LAST = 3  # steps whose mean is the end
_RISES = 1.05
_FALLS = 0.998
_NOTHING_TO_LEARN = 1e-3
_NAMED = 5


def check_first_steps(setups: Sequence[Setup], clock: Clock) -> tuple[CheckResult, CheckResult]:
    """Let a fresh student overfit a few rows by every objective, at the recipe's learning rate.

    Every term has the largest weight of its schedule.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time; its unit is set by the first steps.
    Returns:
        What was found of the loss, and of the gradient.
    """
    missed: list[tuple[str, str]] = []
    fitted: list[tuple[str, str]] = []
    of_loss: list[Finding] = []
    of_gradient: list[Finding] = []
    looked: list[Setup] = []
    for setup in setups:
        if (refusal := clock.refuses(STEPS)) is not None:
            missed.append((setup.name, refusal))
            continue
        looked.append(setup)
        weighted = setup.with_terms([_at_largest(term) for term in setup.terms])
        try:
            stepped = step(weighted, weighted.student(), training_of(weighted, steps=STEPS), gradients=True)
        except NumericsError as error:
            of_loss.append(_not_finite(setup, error))
            continue
        # the first step of a process is slower than all others
        clock.measure_unit(min(stepped.seconds))
        if not set(stepped.reports[0].terms) - stepped.fitted:
            fitted.append((setup.name, "all terms are fitted to these few rows before the first step"))
        of_loss += first_step_findings(stepped, setup)
        of_gradient += gradient_findings(stepped, setup)
    return (
        CheckResult(
            check=CHECK_ID,
            scope=scope(looked, f"{STEPS} steps on the same rows"),
            skipped=left_out([*missed, *fitted]),
            findings=tuple(of_loss),
        ),
        CheckResult(
            check=GRADIENT,
            scope=scope(looked, "the gradient of the first step"),
            skipped=left_out(missed),
            findings=tuple(of_gradient),
        ),
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
        return [from_page("first-steps-raise-loss", *evidence, words={"lower_rate": f"{rate / 10:.1g}"})]
    if last > _FALLS * first:
        return [from_page("first-steps-change-nothing", *evidence, words={"higher_rate": f"{rate * 10:.1g}"})]
    return []


def gradient_findings(stepped: Stepped, setup: Setup) -> list[Finding]:
    """Return the finding of trainable parameters that no gradient reaches."""
    unreached = [name for name in stepped.learning if not _reached(stepped.gradients.get(name))]
    if not unreached:
        return []
    every = len(unreached) == len(stepped.learning)
    shown = ", ".join(unreached[:_NAMED])
    return [
        from_page(
            "parameters-without-gradient",
            f"arms {setup.name}: {len(unreached)} of {len(stepped.learning)} trainable tensors have no gradient, "
            "or a gradient of zero, in a step in which every term has its largest weight",
            shown + (f" and {len(unreached) - _NAMED} more" if len(unreached) > _NAMED else ""),
            severity="error" if every else "warning",
        )
    ]


def _reached(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _at_largest(term: TermConfig) -> TermConfig:
    if not isinstance(term.weight, LinearWeight):
        return term
    most = max(term.weight.start, term.weight.end)
    return term.model_copy(update={"weight": LinearWeight(start=most, end=most, balanced=term.weight.balanced)})


def _not_finite(setup: Setup, error: NumericsError) -> Finding:
    return from_page(
        "first-steps-not-finite",
        f"arms {setup.name}, learning rate {setup.recipe.training.learning_rate:g}",
        *str(error).splitlines(),
    )
